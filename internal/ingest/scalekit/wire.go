package scalekit

import (
	"math"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/handover-dev/handover/internal/directory"
	pb "github.com/handover-dev/handover/internal/ingest/scalekit/scalekitv1"
)

// optional is a text that is not there when it is empty.
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// wireTime is a time that is not there when it is zero.
func wireTime(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func total(n int64) uint32 { return uint32(max(0, min(n, math.MaxUint32))) }

func wireList[T, W any](items []T, wire func(*T) *W) []*W {
	out := make([]*W, len(items))
	for i := range items {
		out[i] = wire(&items[i])
	}
	return out
}

func wireOrganization(o *directory.Organization) *pb.Organization {
	return &pb.Organization{
		Id:          o.ID,
		CreateTime:  wireTime(o.CreatedAt),
		UpdateTime:  wireTime(o.UpdatedAt),
		DisplayName: o.DisplayName,
		RegionCode:  pb.RegionCode(pb.RegionCode_value[o.RegionCode]), // "": not specified
		ExternalId:  optional(o.ExternalID),
		Metadata:    o.Metadata,
		Slug:        optional(o.Slug),
	}
}

func wireUser(u *directory.User) *pb.User {
	p := &u.Profile
	return &pb.User{
		Id:            u.ID,
		EnvironmentId: u.EnvironmentID,
		CreateTime:    wireTime(u.CreatedAt),
		UpdateTime:    wireTime(u.UpdatedAt),
		Email:         u.Email,
		ExternalId:    optional(u.ExternalID),
		Memberships:   wireList(u.Memberships, wireMembership),
		UserProfile: &pb.UserProfile{
			Id:                  p.ID,
			GivenName:           p.GivenName,
			FamilyName:          p.FamilyName,
			FirstName:           p.GivenName,
			LastName:            p.FamilyName,
			Name:                p.Name,
			Locale:              p.Locale,
			EmailVerified:       p.EmailVerified,
			PhoneNumber:         p.PhoneNumber,
			PhoneNumberVerified: p.PhoneNumberVerified,
			Metadata:            p.Metadata,
			CustomAttributes:    p.CustomAttributes,
			PreferredUsername:   p.PreferredUsername,
			Picture:             p.Picture,
			Groups:              p.Groups,
			Gender:              p.Gender,
		},
		Metadata:      u.Metadata,
		LastLoginTime: wireTime(u.LastLoginAt),
	}
}

func wireMembership(m *directory.Membership) *pb.OrganizationMembership {
	out := &pb.OrganizationMembership{
		OrganizationId:     m.OrganizationID,
		JoinTime:           wireTime(m.JoinedAt),
		MembershipStatus:   pb.MembershipStatus(m.Status), // the numbers are the same
		Name:               optional(m.OrganizationName),
		DisplayName:        optional(m.OrganizationName),
		Metadata:           m.Metadata,
		InviterEmail:       optional(m.InviterEmail),
		CreatedAt:          wireTime(m.CreatedAt),
		AcceptedAt:         wireTime(m.AcceptedAt),
		ExpiresAt:          wireTime(m.ExpiresAt),
		ProvisioningMethod: optional(m.ProvisioningMethod),
	}
	for _, role := range m.Roles {
		out.Roles = append(out.Roles, &pb.Role{Id: role.ID, Name: role.Name, DisplayName: role.DisplayName})
	}
	return out
}

func wireSession(s *directory.Session) *pb.SessionDetails {
	return &pb.SessionDetails{
		SessionId:                  s.ID,
		UserId:                     s.UserID,
		AuthenticatedOrganizations: s.Organizations,
		OrganizationId:             s.OrganizationID,
		CreatedAt:                  wireTime(s.CreatedAt),
		UpdatedAt:                  wireTime(s.UpdatedAt),
		IdleExpiresAt:              wireTime(s.IdleExpiresAt),
		AbsoluteExpiresAt:          wireTime(s.AbsoluteExpiresAt),
		ExpiredAt:                  wireTime(s.ExpiredAt),
		LogoutAt:                   wireTime(s.LogoutAt),
		Status:                     string(s.Status),
		LastActiveAt:               wireTime(s.LastActiveAt),
	}
}

func wireRevoked(s *directory.Session) *pb.RevokedSessionDetails {
	return &pb.RevokedSessionDetails{
		SessionId:         s.ID,
		UserId:            s.UserID,
		CreatedAt:         wireTime(s.CreatedAt),
		UpdatedAt:         wireTime(s.UpdatedAt),
		IdleExpiresAt:     wireTime(s.IdleExpiresAt),
		AbsoluteExpiresAt: wireTime(s.AbsoluteExpiresAt),
		ExpiredAt:         wireTime(s.ExpiredAt),
		LogoutAt:          wireTime(s.LogoutAt),
		Status:            string(s.Status),
		LastActiveAt:      wireTime(s.LastActiveAt),
	}
}
