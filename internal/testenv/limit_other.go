//go:build !linux

package testenv

import "errors"

var errLimit = errors.New("only Linux can limit a process that runs")

// LimitFileSize works on Linux only.
func LimitFileSize(int, int64) error { return errLimit }

// LimitFiles works on Linux only.
func LimitFiles(int, int64) error { return errLimit }
