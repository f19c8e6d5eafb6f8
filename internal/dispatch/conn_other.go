//go:build !unix

package dispatch

import "syscall"

// hasNews cannot be told here; a request that meets a closed connection is sent
// again on a fresh one.
func hasNews(syscall.RawConn) bool { return false }
