package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is what /proc counts CPU time in: 100 a second on Linux.
const tick = 10 * time.Millisecond

// cpuOf tells the CPU time that a process has used, with that of its children
// that ended.
func cpuOf(pid int) time.Duration {
	fields := statOf(pid)
	if len(fields) < 17 {
		return 0
	}
	var sum time.Duration
	for _, f := range fields[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0
		}
		sum += time.Duration(n) * tick
	}
	return sum
}

// cpuOfTree adds the children that live, as PostgreSQL's backends do.
func cpuOfTree(pid int) time.Duration {
	sum := cpuOf(pid)
	entries, _ := filepath.Glob("/proc/[0-9]*")
	for _, e := range entries {
		child, err := strconv.Atoi(filepath.Base(e))
		if err != nil {
			continue
		}
		if fields := statOf(child); len(fields) > 2 && fields[1] == strconv.Itoa(pid) {
			sum += cpuOf(child)
		}
	}
	return sum
}

// statOf returns the fields of /proc/PID/stat behind the name.
func statOf(pid int) []string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	i := strings.LastIndexByte(string(raw), ')')
	if i < 0 {
		return nil
	}
	return strings.Fields(string(raw[i+1:]))
}

// peakRSS tells the most memory that a process has had, in MiB.
func peakRSS(pid int) float64 { return memoryOf(pid, "VmHWM:") }

// memoryOf tells a line of /proc/PID/status, in MiB.
func memoryOf(pid int, name string) float64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.SplitSeq(string(raw), "\n") {
		if rest, ok := strings.CutPrefix(line, name); ok {
			kb, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			if err == nil {
				return kb / 1024
			}
		}
	}
	return 0
}
