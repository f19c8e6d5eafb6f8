package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/handover-dev/handover/internal/store"
)

func replayOf(r store.Replay) Replay {
	return Replay{
		ID: r.ID, Selection: Selection(r.Selection), State: r.State, Error: r.Error, Total: r.Total, Done: r.Done, Skipped: r.Skipped,
		Rate: r.Rate, CreatedAt: utc(r.CreatedAt), UpdatedAt: utc(r.UpdatedAt),
	}
}

func (s *Server) registerReplays(a huma.API) {
	const tag, one = "replays", "/v1/replays/{id}"
	huma.Register(a, route("list-replays", http.MethodGet, "/v1/replays", tag, "List replays", http.StatusOK), s.listReplays)
	create := route("create-replay", http.MethodPost, "/v1/replays", tag, "Send a selection of deliveries again, or count it", http.StatusAccepted, http.StatusNotFound, http.StatusConflict)
	create.Description = "Starts in the background and answers 202. With dry_run it only counts, exactly, and answers 200."
	create.Responses = map[string]*huma.Response{"200": {Description: "What it would select; nothing was started.", Content: map[string]*huma.MediaType{
		"application/json": {Schema: &huma.Schema{Ref: "#/components/schemas/Replay"}},
	}}}
	huma.Register(a, create, s.createReplay)
	huma.Register(a, route("get-replay", http.MethodGet, one, tag, "Get a replay and how far it is", http.StatusOK, http.StatusNotFound), s.getReplay)
	huma.Register(a, route("cancel-replay", http.MethodPost, one+"/cancel", tag, "Stop a replay", http.StatusOK, http.StatusNotFound, http.StatusConflict), s.cancelReplay)
}

func (s *Server) listReplays(ctx context.Context, in *struct{ Paging }) (*body[Page[Replay]], error) {
	all, next, err := s.Store.ListReplays(ctx, in.page())
	if err != nil {
		return nil, s.answerTo(ctx, err, "replay")
	}
	return listed(all, next, replayOf), nil
}

func checkSelection(sel Selection) error {
	empty := len(sel.DeliveryIDs) == 0 && len(sel.EventIDs) == 0 && sel.EndpointID == "" && sel.EventType == "" &&
		sel.OrganizationID == "" && sel.UserID == "" && sel.State == "" && sel.Since.IsZero() && sel.Until.IsZero()
	switch {
	case empty && !sel.Missing:
		return invalid(at("body", "selects everything; restrict it, by since at least"))
	case sel.Missing && sel.EndpointID == "":
		return invalid(at("body.endpoint_id", "is required with missing"))
	case sel.Missing && len(sel.DeliveryIDs) > 0:
		return invalid(at("body.delivery_ids", "cannot be missing"))
	case sel.Missing && sel.State != "":
		return invalid(at("body.state", "what is missing has none"))
	case !sel.Since.IsZero() && !sel.Until.IsZero() && !sel.Since.Before(sel.Until):
		return invalid(at("body.until", "has to be after since"))
	}
	return checkTimes("body.", sel.Since, sel.Until)
}

func (s *Server) createReplay(ctx context.Context, in *body[NewReplay]) (*struct {
	Status int
	Body   Replay
}, error,
) {
	type answer = struct {
		Status int
		Body   Replay
	}
	if err := checkSelection(in.Body.Selection); err != nil {
		return nil, err
	}
	sel := store.Selection(in.Body.Selection)
	if sel.EndpointID != "" {
		if _, err := s.Store.Endpoint(ctx, sel.EndpointID); errors.Is(err, store.ErrNotFound) {
			return nil, invalid(at("body.endpoint_id", "there is no such endpoint"))
		} else if err != nil {
			return nil, s.answerTo(ctx, err, "endpoint")
		}
	}
	if in.Body.DryRun {
		total, skipped, err := s.Store.CountReplay(ctx, sel)
		if err != nil {
			return nil, s.answerTo(ctx, err, "endpoint")
		}
		return &answer{http.StatusOK, Replay{DryRun: true, Selection: in.Body.Selection, State: "dry_run", Total: total, Skipped: skipped, Rate: in.Body.Rate}}, nil
	}
	r, err := s.Store.CreateReplay(ctx, sel, in.Body.Rate)
	if err != nil {
		return nil, s.answerTo(ctx, err, "endpoint")
	}
	if s.OnReplay != nil {
		s.OnReplay()
	}
	return &answer{http.StatusAccepted, replayOf(r)}, nil
}

func (s *Server) getReplay(ctx context.Context, in *ByID) (*body[Replay], error) {
	r, err := s.Store.Replay(ctx, in.ID)
	if err != nil {
		return nil, s.answerTo(ctx, err, "replay")
	}
	return &body[Replay]{replayOf(r)}, nil
}

func (s *Server) cancelReplay(ctx context.Context, in *ByID) (*body[Replay], error) {
	r, err := s.Store.CancelReplay(ctx, in.ID)
	if err != nil {
		return nil, s.answerTo(ctx, err, "replay")
	}
	return &body[Replay]{replayOf(r)}, nil
}
