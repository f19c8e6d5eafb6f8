//go:build !linux

package testenv

import "syscall"

// Only Linux can bind a child's life to its parent's; elsewhere cleanups do
// what can be done.
func dieWithParent(*syscall.SysProcAttr, syscall.Signal) {}
