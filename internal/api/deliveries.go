package api

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/handover-dev/handover/internal/store"
)

func deliveryOf(d store.Delivery) Delivery {
	out := Delivery{
		ID: d.ID, EventID: d.EventID, EventType: d.EventType, EndpointID: d.EndpointID, OrganizationID: d.OrganizationID, UserID: d.UserID,
		State: d.State.String(), AttemptCount: d.Attempts, LastStatus: d.LastStatus, LastError: d.LastError, Outcome: d.Outcome,
		Receipt: d.Receipt, ReceiptError: d.ReceiptError, CreatedAt: d.CreatedAt.UTC(), UpdatedAt: d.UpdatedAt.UTC(),
	}
	if d.State == store.Pending {
		out.NextAttemptAt = d.DueAt.UTC()
	}
	return out
}

func attemptOf(a store.Attempt) Attempt {
	return Attempt{
		Number: a.Number, StartedAt: a.StartedAt.UTC(), DurationMS: float64(a.Duration.Microseconds()) / 1000, Status: a.Status,
		Class: a.Class, Error: a.Error, Answer: strings.ToValidUTF8(string(a.Answer), "\uFFFD"), Address: a.Address,
	}
}

func (s *Server) registerDeliveries(a huma.API) {
	const tag, one = "deliveries", "/v1/deliveries/{id}"
	huma.Register(a, route("list-deliveries", http.MethodGet, "/v1/deliveries", tag, "List deliveries", http.StatusOK), s.listDeliveries)
	huma.Register(a, route("get-delivery", http.MethodGet, one, tag, "Get a delivery with its attempts", http.StatusOK, http.StatusNotFound), s.getDelivery)
	huma.Register(a, route("retry-delivery", http.MethodPost, one+"/retry", tag, "Send a delivery again, now", http.StatusOK, http.StatusNotFound, http.StatusConflict), s.retryDelivery)
	huma.Register(a, route("cancel-delivery", http.MethodPost, one+"/cancel", tag, "Give a delivery up and let the person's next one go", http.StatusOK, http.StatusNotFound, http.StatusConflict), s.cancelDelivery)
}

// Between is the span of time that lists take.
type Between struct {
	Since time.Time `query:"since" doc:"At or after this time."`
	Until time.Time `query:"until" doc:"Before this time."`
}

func (b Between) check() error {
	if !b.Since.IsZero() && !b.Until.IsZero() && !b.Since.Before(b.Until) {
		return invalid(at("query.until", "has to be after since"))
	}
	return checkTimes("query.", b.Since, b.Until)
}

// checkTimes refuses times that do not fit into a number of microseconds.
func checkTimes(prefix string, since, until time.Time) error {
	for _, t := range []struct {
		name string
		time time.Time
	}{{"since", since}, {"until", until}} {
		if !t.time.IsZero() && (t.time.Year() < 1970 || t.time.Year() > 9000) {
			return invalid(at(prefix+t.name, "has to be in the years 1970 to 9000"))
		}
	}
	return nil
}

func (s *Server) listDeliveries(ctx context.Context, in *struct {
	Paging
	Between
	State          string `query:"state" enum:"pending,sending,held,succeeded,failed,superseded,canceled"`
	EndpointID     string `query:"endpoint_id" maxLength:"255"`
	EventID        string `query:"event_id" maxLength:"255"`
	OrganizationID string `query:"organization_id" maxLength:"255"`
	UserID         string `query:"user_id" maxLength:"255"`
},
) (*body[Page[Delivery]], error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	f := store.DeliveryFilter{
		State: in.State, EndpointID: in.EndpointID, OrganizationID: in.OrganizationID, UserID: in.UserID, Since: in.Since, Until: in.Until,
	}
	if in.EventID != "" {
		f.EventIDs = []string{in.EventID}
	}
	ds, next, err := s.Store.ListDeliveries(ctx, f, in.page())
	if err != nil {
		return nil, s.answerTo(ctx, err, "delivery")
	}
	return listed(ds, next, deliveryOf), nil
}

// maxAttempts is how many attempts of a delivery are shown.
const maxAttempts = 100

func (s *Server) getDelivery(ctx context.Context, in *ByID) (*body[Delivery], error) {
	d, err := s.Store.Delivery(ctx, in.ID)
	if err != nil {
		return nil, s.answerTo(ctx, err, "delivery")
	}
	attempts, err := s.Store.Attempts(ctx, d.ID, maxAttempts)
	if err != nil {
		return nil, s.answerTo(ctx, err, "delivery")
	}
	out := deliveryOf(d)
	for _, a := range attempts {
		out.Attempts = append(out.Attempts, attemptOf(a))
	}
	return &body[Delivery]{out}, nil
}

func (s *Server) retryDelivery(ctx context.Context, in *ByID) (*body[Delivery], error) {
	due, err := s.Store.RetryDelivery(ctx, in.ID)
	if err != nil {
		return nil, s.answerTo(ctx, err, "delivery")
	}
	s.due(due...)
	return s.getDelivery(ctx, in)
}

func (s *Server) cancelDelivery(ctx context.Context, in *ByID) (*body[Delivery], error) {
	due, err := s.Store.CancelDelivery(ctx, in.ID)
	if err != nil {
		return nil, s.answerTo(ctx, err, "delivery")
	}
	s.due(due...)
	return s.getDelivery(ctx, in)
}
