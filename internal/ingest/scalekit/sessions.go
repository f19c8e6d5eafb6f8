package scalekit

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/handover-dev/handover/internal/directory"
	pb "github.com/handover-dev/handover/internal/ingest/scalekit/scalekitv1"
)

func (s *service) GetSession(ctx context.Context, req *pb.SessionDetailsRequest) (*pb.SessionDetails, error) {
	var f faults
	f.sessionID("session_id", req.SessionId, "ses_")
	if err := f.err(); err != nil {
		return nil, err
	}
	session, err := s.dir.Session(ctx, callOf(ctx).env, req.SessionId)
	if err != nil {
		return nil, err
	}
	return wireSession(&session), nil
}

func (s *service) GetUserSessions(ctx context.Context, req *pb.UserSessionDetailsRequest) (*pb.UserSessionDetails, error) {
	var f faults
	f.sessionID("user_id", req.UserId, "usr_")
	page := f.page(req.PageSize, req.PageToken)
	filter := directory.SessionFilter{Statuses: f.statuses("filter.status", req.Filter.GetStatus())}
	f.time("filter.start_time", req.Filter.GetStartTime())
	f.time("filter.end_time", req.Filter.GetEndTime())
	if err := f.err(); err != nil {
		return nil, err
	}
	filter.Since, filter.Before = goTime(req.Filter.GetStartTime()), goTime(req.Filter.GetEndTime())
	list, err := s.dir.UserSessions(ctx, callOf(ctx).env, req.UserId, filter, page)
	if err != nil {
		return nil, err
	}
	return &pb.UserSessionDetails{
		Sessions: wireList(list.Items, wireSession), NextPageToken: list.Next, PrevPageToken: list.Prev, TotalSize: total(list.Total),
	}, nil
}

func goTime(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

func (s *service) RevokeSession(ctx context.Context, req *pb.RevokeSessionRequest) (*pb.RevokeSessionResponse, error) {
	var f faults
	f.sessionID("session_id", req.SessionId, "ses_")
	if err := f.err(); err != nil {
		return nil, err
	}
	session, err := s.dir.RevokeSession(ctx, callOf(ctx).env, req.SessionId)
	if err != nil {
		return nil, err
	}
	return &pb.RevokeSessionResponse{RevokedSession: wireRevoked(&session)}, nil
}

func (s *service) RevokeAllUserSessions(ctx context.Context, req *pb.RevokeAllUserSessionsRequest) (*pb.RevokeAllUserSessionsResponse, error) {
	var f faults
	f.sessionID("user_id", req.UserId, "usr_")
	if err := f.err(); err != nil {
		return nil, err
	}
	sessions, err := s.dir.RevokeUserSessions(ctx, callOf(ctx).env, req.UserId)
	if err != nil {
		return nil, err
	}
	return &pb.RevokeAllUserSessionsResponse{
		RevokedSessions: wireList(sessions, wireRevoked), TotalRevoked: total(int64(len(sessions))),
	}, nil
}
