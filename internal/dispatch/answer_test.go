package dispatch_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/handover-dev/handover/internal/dispatch"
)

func TestWords(t *testing.T) {
	t.Parallel()
	receipt := func(status, message string) []byte {
		return []byte(`{"type":"receipt","status":"` + status + `","message":"` + message + `"}`)
	}
	for _, test := range []struct {
		answer dispatch.Answer
		want   string
	}{
		{dispatch.Answer{Status: 403, Class: dispatch.ClassHTTP4xx}, "refuses us (403)"},
		{dispatch.Answer{Status: 405, Class: dispatch.ClassHTTP4xx}, "does not take POST at this URL (405)"},
		{dispatch.Answer{Status: 413, Class: dispatch.ClassHTTP4xx}, "finds the event too large (413)"},
		{dispatch.Answer{Status: 422, Class: dispatch.ClassRejected, Receipt: receipt("failed", "")}, "cannot do it (422, failed)"},
		{dispatch.Answer{Status: 422, Class: dispatch.ClassRejected, Receipt: receipt("blocked", `a\u001b[31m\nb`)}, "cannot do it (422, blocked): a [31m b"},
		{dispatch.Answer{Status: 422, Class: dispatch.ClassRejected, Receipt: receipt("completed", "")}, "cannot process the event (422)"},
		{dispatch.Answer{Status: 422, Class: dispatch.ClassRejected, Receipt: receipt("odd", "x")}, "cannot process the event (422)"},
		{dispatch.Answer{Class: dispatch.ClassOther, Err: errors.New("line\r\nbreak \xff")}, "line  break  "},
	} {
		if got := test.answer.Words(); got != test.want {
			t.Errorf("%d: %q, want %q", test.answer.Status, got, test.want)
		}
	}
	for n := 250; n < 320; n++ {
		a := dispatch.Answer{Status: 422, Class: dispatch.ClassRejected, Receipt: receipt("blocked", strings.Repeat("x", n%7)+strings.Repeat("é", n))}
		checkWords(t, a)
		if words := a.Words(); len(words) < 296 || !strings.HasSuffix(words, "é…") {
			t.Errorf("%d bytes, ends in %q", len(words), words[len(words)-8:])
		}
	}
	checkWords(t, dispatch.Answer{Err: errors.New(strings.Repeat("é", 1<<20))})
}

func TestOnlyAReceiptMakesA422Permanent(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]dispatch.Verdict{
		`{"type":"receipt","status":"blocked","message":"x"}`:   dispatch.Permanent,
		`{"type":"receipt","status":"failed"}`:                  dispatch.Permanent,
		`{"type":"receipt","status":"in_progress"}`:             dispatch.Retry,
		`{"type":"receipt","status":"completed"}`:               dispatch.Retry,
		`{"type":"error","status":"failed"}`:                    dispatch.Retry,
		`{"Type":"receipt","Status":"failed"}`:                  dispatch.Retry,
		`{"type":"receipt","status":"failed"}{}`:                dispatch.Retry,
		`{"type":"receipt","status":"failed","resources":[{}]}`: dispatch.Retry,
		`[]`: dispatch.Retry,
		``:   dispatch.Retry,
	} {
		if got := (dispatch.Answer{Status: 422, Class: dispatch.ClassRejected, Receipt: []byte(text)}).Verdict(); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
		if got := (dispatch.Answer{Status: 200, Class: dispatch.ClassOK, Receipt: []byte(text)}).Verdict(); got != dispatch.Success {
			t.Errorf("200 with %s: %s", text, got)
		}
	}
}

func TestClassesAreDistinct(t *testing.T) {
	t.Parallel()
	classes := dispatch.Classes()
	slices.Sort(classes)
	if n := len(slices.Compact(slices.Clone(classes))); n != 19 || len(classes) != 19 {
		t.Errorf("%d classes of which %d differ, want 19", len(classes), n)
	}
}
