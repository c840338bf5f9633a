package authn

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strings"

	"skiff.dev/skiff/internal/apiserver/request"
)

// TokenFile is the static list of tokens, by their hash: looking one up takes
// no time that depends on how much of a guess is right.
type TokenFile map[[sha256.Size]byte]*request.User

// ParseTokenFile reads lines of token,user,uid and optionally a quoted list of
// groups.
func ParseTokenFile(data []byte) (TokenFile, error) {
	list := TokenFile{}
	in := csv.NewReader(bytes.NewReader(data))
	in.FieldsPerRecord = -1
	in.TrimLeadingSpace = true
	for {
		record, err := in.Read()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading token file: %w", err)
		}
		line, _ := in.FieldPos(0)
		if len(record) < 3 {
			return nil, fmt.Errorf("reading token file: line %d: must have at least 3 columns (token, user name, user uid), found %d", line, len(record))
		}
		if record[0] == "" {
			return nil, fmt.Errorf("reading token file: line %d: empty token", line)
		}
		id := sha256.Sum256([]byte(record[0]))
		if list[id] != nil {
			return nil, fmt.Errorf("reading token file: line %d: duplicate token", line)
		}
		user := &request.User{Name: record[1], UID: record[2]}
		if len(record) > 3 {
			for _, g := range strings.Split(record[3], ",") {
				if g = strings.TrimSpace(g); g != "" {
					user.Groups = append(user.Groups, g)
				}
			}
		}
		list[id] = user
	}
}

// AuthenticateToken has no opinion about tokens that are not in the list, nor
// about anybody's audiences: the tokens name none, see Agnostic.
func (list TokenFile) AuthenticateToken(_ context.Context, token string, audiences []string) (*request.User, []string, bool, error) {
	if len(audiences) > 0 {
		return nil, nil, false, nil
	}
	user, ok := list[sha256.Sum256([]byte(token))]
	return user, nil, ok, nil
}
