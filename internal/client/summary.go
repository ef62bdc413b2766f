package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
)

// Coverage says what a summary was made of.
type Coverage struct {
	Strategy      string `json:"strategy"` // single, map_reduce or refine
	Chunks        int64  `json:"chunks"`
	Depth         int64  `json:"depth"`
	TokensCovered int64  `json:"tokens_covered"`
	TokensDropped int64  `json:"tokens_dropped"` // always 0
	Calls         int64  `json:"calls"`
	CallsMade     int64  `json:"calls_made"`
	CallsReused   int64  `json:"calls_reused"`
}

// OutlineLine says where a section of a job's text is, in characters, and what it says.
type OutlineLine struct {
	Start   int64  `json:"start"`
	End     int64  `json:"end"`
	Level   int    `json:"level"` // of the heading; 0 before the first one
	Heading string `json:"heading"`
	Part    int    `json:"part"` // from 2: the section goes on
	Line    string `json:"line"`
}

// Outline returns the lines of a job's outline; none if its batch asked for none.
func (c *Client) Outline(ctx context.Context, job string) ([]OutlineLine, error) {
	d, err := call[struct{ Outline []OutlineLine }](ctx, c, http.MethodGet, "/v1/jobs/"+url.PathEscape(job), nil)
	return d.Outline, err
}

// JobText writes the text of a job's document to w: its characters from start to before end, all that follow when end is below 0.
func (c *Client) JobText(ctx context.Context, job string, start, end int64, w io.Writer) error {
	q := url.Values{"start": {strconv.FormatInt(start, 10)}}
	if end >= 0 {
		q.Set("end", strconv.FormatInt(end, 10))
	}
	return c.file(ctx, "/v1/jobs/"+url.PathEscape(job)+"/text?"+q.Encode(), w)
}
