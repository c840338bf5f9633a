// Package image keeps the images of the node: it makes present what containers
// need (pull policy, pull secrets, back-off, a limit on parallel pulls),
// removes what nobody needs when the disk fills up or an image has been unused
// for long, and knows what there is for the node's status.
package image

import "time"

// The waiting reasons of containers whose image is not there.
const (
	ErrImagePull        = "ErrImagePull"
	ErrImagePullBackOff = "ImagePullBackOff"
	ErrImageNeverPull   = "ErrImageNeverPull"
	InvalidImageName    = "InvalidImageName"
	ErrImageInspect     = "ImageInspectError"
	RegistryUnavailable = "RegistryUnavailable"
	SignatureValidation = "SignatureValidationFailed"
)

// An Error is why an image is not there.
type Error struct {
	Reason  string // one of the above
	Message string
	Retry   time.Duration // how long to wait before the next try
}

func (e *Error) Error() string { return e.Message }
