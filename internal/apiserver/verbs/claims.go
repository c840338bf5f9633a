package verbs

import (
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/resource"
	"skiff.dev/skiff/internal/store"
)

// claimRoot is where exclusive claims are kept: one key per claim, its value
// the holder. A claim is written and removed in the transaction that writes its
// holder, so it can neither leak nor be held twice (I15).
const claimRoot = Root + "skiff.dev/claims/"

// claimTaken says that a write failed because someone else holds a claim.
type claimTaken struct{ claim resource.Claim }

func (e *claimTaken) Error() string {
	return fmt.Sprintf("claim %s is held by another object", e.claim.Key)
}

func (r *Resource) claim(txn *store.Txn, holder meta.Key, claims []resource.Claim) {
	for _, c := range claims {
		key := claimRoot + c.Key
		txn.If = append(txn.If, store.Cond{Key: key})
		txn.Do = append(txn.Do, store.Op{Key: key, Value: r.holder(holder)})
	}
}

func release(txn *store.Txn, claims []resource.Claim) {
	for _, c := range claims {
		txn.Do = append(txn.Do, store.Op{Key: claimRoot + c.Key, Delete: true})
	}
}

// takenBy finds which claim made the transaction fail.
func (r *Resource) takenBy(res store.Result, claims []resource.Claim) error {
	for _, kv := range res.Now {
		for _, c := range claims {
			if kv.Key == claimRoot+c.Key {
				return &claimTaken{claim: c}
			}
		}
	}
	return apierrors.NewInternalError(fmt.Errorf("transaction on %s failed without a cause", r.info.Name.Plural))
}

func claimDiff(now, before []resource.Claim) (gained, lost []resource.Claim) {
	for _, c := range now {
		if !holdsClaim(before, c.Key) {
			gained = append(gained, c)
		}
	}
	for _, c := range before {
		if !holdsClaim(now, c.Key) {
			lost = append(lost, c)
		}
	}
	return gained, lost
}

func holdsClaim(claims []resource.Claim, key string) bool {
	for _, c := range claims {
		if c.Key == key {
			return true
		}
	}
	return false
}
