package apiserver

import "time"

// SetWriteWait changes how long a slow reader of a watch is waited for.
func (s *Server) SetWriteWait(d time.Duration) { s.writeWait = d }
