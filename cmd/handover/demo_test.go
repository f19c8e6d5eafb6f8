package main

import (
	"errors"
	"testing"
)

func TestCalledAs(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"/tmp/go-build3358195204/b001/exe/handover":                                                                 "go run ./cmd/handover",
		"/home/ines/.cache/go-build/5d/5d0c17523790bf8fa0f9733390171dea7fe2ac1a9c8c7811172cf6c5e7648de6-d/handover": "go run ./cmd/handover",
		`C:\Temp\go-build33\b001\exe\handover.exe`:                                                                  "go run ./cmd/handover",
		"/usr/local/bin/handover":                                                                                   "handover",
		"/home/ines/go-build/handover/bin/handover":                                                                 "handover",
		"/tmp/go-build33/b001/handover.test":                                                                        "handover",
	} {
		if got := calledAs(path, nil); got != want {
			t.Errorf("%s: %q, not %q", path, got, want)
		}
	}
	if got := calledAs("", errors.New("unknown")); got != "handover" {
		t.Errorf("without a path: %q", got)
	}
}
