package handlers

import (
	"slices"
	"strings"
	"time"
)

// An Outcome is what a function did about an event. Make one with [Transferred],
// [Deleted], [Anonymized], [Revoked], [Retained], [Skipped], [NothingToDo],
// [InProgress] or [Blocked], and several into one with [Done].
//
// The zero Outcome says nothing: the sender learns that the event was received
// but not what was done.
type Outcome struct {
	status    string
	resources []Resource
	message   string
}

// Transferred says that n things of a type belong to another person now; to is
// that person's user id. A type is the app's own word for a kind of thing, as
// in [Resource].
func Transferred(typ string, n int64, to string) Outcome {
	r := Resource{Type: typ, Found: n, Transferred: n}
	if n > 0 {
		r.To = to
	}
	return did(r)
}

// Deleted says that n things of a type are gone.
func Deleted(typ string, n int64) Outcome {
	return did(Resource{Type: typ, Found: n, Deleted: n})
}

// Anonymized says that n things of a type no longer tell who the person was.
func Anonymized(typ string, n int64) Outcome {
	return did(Resource{Type: typ, Found: n, Anonymized: n})
}

// Revoked says that n credentials of a type no longer work.
func Revoked(typ string, n int64) Outcome {
	return did(Resource{Type: typ, Found: n, Revoked: n})
}

// Retained says that n things of a type have to be kept, why, and until when;
// the zero time means that this is not known.
func Retained(typ string, n int64, basis string, until time.Time) Outcome {
	r := Resource{Type: typ, Found: n, Retained: n}
	if n > 0 {
		r.RetainBasis = basis
		if !until.IsZero() {
			r.RetainUntil = &until
		}
	}
	return did(r)
}

// Skipped says that n things of a type were left as they are on purpose.
func Skipped(typ string, n int64) Outcome {
	return did(Resource{Type: typ, Found: n, Skipped: n})
}

// NothingToDo says that the person had nothing here.
func NothingToDo() Outcome { return Outcome{status: StatusCompleted} }

// InProgress says that the app has taken the work on and will finish it later
// by itself: the event is not sent again. Store the work before you say so.
func InProgress() Outcome { return Outcome{status: StatusInProgress} }

// Blocked says that a person has to decide before this can be done; the reason
// is for that person to read. The event is not sent again until an operator
// asks for it, and the function runs anew then.
func Blocked(reason string) Outcome {
	return Outcome{status: StatusBlocked, message: reason}
}

// Report makes an Outcome of a receipt, for what the other functions cannot say.
func Report(r Receipt) Outcome {
	return Outcome{status: r.Status, resources: slices.Clone(r.Resources), message: r.Message}
}

func did(r Resource) Outcome {
	return Outcome{status: StatusCompleted, resources: []Resource{r}}
}

// Done combines outcomes. Counts of the same type are added, different new
// owners, reasons and messages are listed, of two times the later one counts
// (of which one that is not known is the latest), and of the statuses the one
// furthest from completed.
func Done(outcomes ...Outcome) Outcome {
	var all Outcome
	for _, o := range outcomes {
		if rank(o.status) > rank(all.status) {
			all.status = o.status
		}
		all.message = joined(all.message, o.message, "; ")
		for _, r := range o.resources {
			i := slices.IndexFunc(all.resources, func(other Resource) bool { return other.Type == r.Type })
			if i < 0 {
				all.resources = append(all.resources, r)
				continue
			}
			all.resources[i] = add(all.resources[i], r)
		}
	}
	return all
}

func add(a, b Resource) Resource {
	switch {
	case b.Retained == 0:
	case a.Retained == 0 || b.RetainUntil == nil || a.RetainUntil != nil && b.RetainUntil.After(*a.RetainUntil):
		a.RetainUntil = b.RetainUntil
	}
	a.Found += b.Found
	a.Transferred += b.Transferred
	a.Deleted += b.Deleted
	a.Anonymized += b.Anonymized
	a.Revoked += b.Revoked
	a.Retained += b.Retained
	a.Skipped += b.Skipped
	a.Failed += b.Failed
	a.To = joined(a.To, b.To, ",")
	a.RetainBasis = joined(a.RetainBasis, b.RetainBasis, "; ")
	return a
}

func joined(all, one, separator string) string {
	switch {
	case all == "":
		return one
	case one == "" || slices.Contains(strings.Split(all, separator), one):
		return all
	}
	return all + separator + one
}

// rank orders statuses; one that the contract does not know wins, so that it
// is found.
func rank(status string) int {
	return -slices.Index([]string{StatusFailed, StatusBlocked, StatusInProgress, StatusCompleted, ""}, status)
}

// Receipt returns the receipt that says this outcome. That of the zero Outcome
// has no type.
func (o Outcome) Receipt() Receipt {
	if o.status == "" {
		return Receipt{}
	}
	return Receipt{Type: "receipt", Status: o.status, Resources: o.resources, Message: o.message}
}
