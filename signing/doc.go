// Package signing signs and verifies messages as Standard Webhooks
// (https://www.standardwebhooks.com) describes.
package signing
