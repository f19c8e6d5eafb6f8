package testenv

import (
	"fmt"
	"syscall"
	"unsafe"
)

// LimitFileSize lets no file of another process grow beyond size bytes, as if
// the disk were full: its writes fail with EFBIG. A negative size lifts the limit.
func LimitFileSize(pid int, size int64) error { return limit(pid, syscall.RLIMIT_FSIZE, size) }

// LimitFiles lets another process open no files whose number is n or more: it
// fails with EMFILE. A negative n lifts the limit.
func LimitFiles(pid int, n int64) error { return limit(pid, syscall.RLIMIT_NOFILE, n) }

// limit changes the limit that may be raised again.
func limit(pid, resource int, n int64) error {
	var l syscall.Rlimit
	if err := prlimit(pid, resource, nil, &l); err != nil {
		return err
	}
	l.Cur = l.Max
	if n >= 0 {
		l.Cur = min(uint64(n), l.Max)
	}
	return prlimit(pid, resource, &l, nil)
}

func prlimit(pid, resource int, set, get *syscall.Rlimit) error {
	if _, _, err := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, uintptr(pid), uintptr(resource),
		uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(get)), 0, 0); err != 0 {
		return fmt.Errorf("limit process %d: %w", pid, err)
	}
	return nil
}
