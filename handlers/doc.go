// Package handlers is what a receiving app imports.
package handlers
