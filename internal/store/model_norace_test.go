//go:build !race

package store

// checks is how many sequences of steps the model test tries.
const checks = "100"
