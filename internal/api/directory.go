package api

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/handover-dev/handover/internal/directory"
)

// A Directory knows who is a member of what. What its methods promise is said by
// [directory.Directory].
type Directory interface {
	CreateOrganization(ctx context.Context, env string, n directory.NewOrganization) (directory.Organization, error)
	Organization(ctx context.Context, env string, ref directory.Ref) (directory.Organization, error)
	Organizations(ctx context.Context, env, externalID string, p directory.Page) (directory.List[directory.Organization], error)
	DeleteOrganization(ctx context.Context, env string, ref directory.Ref) error

	CreateUser(ctx context.Context, env, organizationID string, n directory.NewUser) (directory.User, error)
	User(ctx context.Context, env string, ref directory.Ref) (directory.User, error)
	Users(ctx context.Context, env string, p directory.Page) (directory.List[directory.User], error)
	DeleteUser(ctx context.Context, env string, user directory.Ref, how directory.How) error

	Members(ctx context.Context, env, organizationID string, p directory.Page) (directory.List[directory.User], error)
	AddMember(ctx context.Context, env, organizationID string, user directory.Ref, n directory.NewMembership) (directory.User, error)
	RemoveMember(ctx context.Context, env, organizationID string, user directory.Ref, how directory.How) (directory.Removal, error)
	Import(ctx context.Context, env, organizationID string, members []directory.Imported) (added int, err error)

	CreateSession(ctx context.Context, s directory.Session) (directory.Session, error)
	Session(ctx context.Context, env, id string) (directory.Session, error)
	UserSessions(ctx context.Context, env, userID string, f directory.SessionFilter, p directory.Page) (directory.List[directory.Session], error)
	RevokeSession(ctx context.Context, env, id string) (directory.Session, error)
}

// InEnvironment says which environment a request is about. It is exported, like
// Paging, for huma.
type InEnvironment struct {
	EnvironmentID string `query:"environment_id" maxLength:"64" pattern:"^env_[A-Za-z0-9_-]+$" doc:"Absent: the service's own."`
}

func (s *Server) environment(in InEnvironment) string {
	return cmp.Or(in.EnvironmentID, s.EnvironmentID)
}

// directoryPage asks the directory for a page, whose lists have their own bound.
func (p Paging) directoryPage() directory.Page {
	const most = 100
	return directory.Page{Token: p.Cursor, Size: min(p.Limit, most)}
}

// named says where a request names what it is about.
type named struct{ organization, user, successor string }

// answerFrom turns an error of the directory into an answer. What is not there is
// 404 when the path names it, and a fault of the request when something else does.
func (s *Server) answerFrom(ctx context.Context, err error, in named) error {
	missing := func(known error, location string) error {
		field := at(cmp.Or(location, "path.id"), known.Error())
		if !strings.HasPrefix(field.Location, "path.") {
			return invalid(field)
		}
		return refuse(http.StatusNotFound, known.Error(), field)
	}
	if errors.Is(err, directory.ErrOrganizationNotFound) {
		return missing(directory.ErrOrganizationNotFound, in.organization)
	}
	if known := among(err, directory.ErrUserNotFound, directory.ErrMembershipNotFound); known != nil {
		return missing(known, in.user)
	}
	if known := among(err, directory.ErrSessionNotFound, directory.ErrDirectoryNotFound, directory.ErrNotFound); known != nil {
		return missing(known, "")
	}
	if known := among(err, directory.ErrOrganizationExists, directory.ErrUserExists, directory.ErrMembershipExists, directory.ErrSessionExists); known != nil {
		return refuse(http.StatusConflict, known.Error())
	}
	if errors.Is(err, directory.ErrSuccessor) {
		return invalid(at(cmp.Or(in.successor, "body.successor"), directory.ErrSuccessor.Error()))
	}
	if errors.Is(err, directory.ErrPageToken) {
		return refuse(http.StatusBadRequest, "the cursor is not valid", at("query.cursor", "is not a cursor that this list gave"))
	}
	return s.answerTo(ctx, err, "thing")
}

// among returns the first of the known errors that err is.
func among(err error, known ...error) error {
	for _, k := range known {
		if errors.Is(err, k) {
			return k
		}
	}
	return nil
}
