package cri

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// IsNotFound reports whether the runtime does not know the id it was given.
func IsNotFound(err error) bool { return status.Code(err) == codes.NotFound }
