//go:build race

package stream_test

// raceEnabled keeps the suite's TestReconnect out of runs under the race
// detector, because it races with itself: it reads the list of published messages
// while a goroutine of its own appends to it. TestRestartsAndOutagesUnderLoad
// does the same and runs everywhere.
const raceEnabled = true
