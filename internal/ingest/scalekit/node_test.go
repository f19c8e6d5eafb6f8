package scalekit_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/directory"
	"github.com/handover-dev/handover/internal/ingest/scalekit/scalekittest"
	"github.com/handover-dev/handover/signing"
)

// The official SDK, as it is, against the API on a real port.
func TestNodeSDK(t *testing.T) {
	t.Parallel()
	w := start(t)
	w.dir.now, w.handler.Now = time.Now, time.Now
	w.limits.most = 1000
	scalekittest.Run(t, scalekittest.Target{
		URL: w.url, ClientID: clientID, Secret: clientSecret,
		Session: func(userID, organizationID string) (string, error) {
			s, err := w.dir.CreateSession(t.Context(), directory.Session{
				EnvironmentID: env, UserID: userID, OrganizationID: organizationID, Organizations: []string{organizationID},
			})
			return s.ID, err
		},
	})
}

func TestNodeSDKVerifiesWebhooks(t *testing.T) {
	t.Parallel()
	body, ok := events.Fixture("user.organization_membership_deleted")
	if !ok {
		t.Fatal("there is no such fixture")
	}
	key := signing.NewKey()
	header := make(http.Header)
	if err := (signing.Signer{Keys: []signing.Key{key}}).SetHeaders(header, "msg_1", time.Now(), body); err != nil {
		t.Fatal(err)
	}
	scalekittest.Verify(t, scalekittest.Webhook{Secret: key.Secret(), Header: header, Body: body})
}
