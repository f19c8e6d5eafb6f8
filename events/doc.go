// Package events reads and builds webhook events.
package events
