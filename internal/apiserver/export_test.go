package apiserver

// WriteWait is how long a slow reader of a watch is waited for.
const WriteWait = writeWait
