package app

import "context"

func (s *server) runNode(ctx context.Context) error { <-ctx.Done(); return nil }
