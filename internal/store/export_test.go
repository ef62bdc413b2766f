package store

// ReleaseFollowersSQL is for tests that pause a batch as a transaction of the store does.
const ReleaseFollowersSQL = releaseFollowers
