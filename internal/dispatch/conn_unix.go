//go:build unix

package dispatch

import (
	"errors"
	"syscall"
)

// hasNews reports whether a connection that should be silent has something to
// read: the end, an error or unasked bytes.
func hasNews(raw syscall.RawConn) bool {
	news := false
	err := raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK)
		news = !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EINTR)
		return true // it is not waited for
	})
	return news || err != nil
}
