package queue

// Connection is connection, for tests.
var Connection = connection
