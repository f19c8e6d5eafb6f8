package directory

import (
	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/store"
)

// What events say of people and organizations.

func organizationData(c *store.Change, env, id string) events.Organization {
	o := c.Organization(env, store.OrganizationRef{ID: id})
	if o == nil {
		return events.Organization{ID: id}
	}
	return events.Organization{
		ID: id, DisplayName: o.DisplayName, ExternalID: o.ExternalID, RegionCode: o.RegionCode, Metadata: o.Metadata,
		CreateTime: o.CreatedAt.UTC(), UpdateTime: o.UpdatedAt.UTC(),
	}
}

func userData(u *User) events.User {
	data := events.User{
		ID: u.ID, Email: u.Email, ExternalID: u.ExternalID, Metadata: u.Metadata, Profile: u.Profile,
		CreateTime: u.CreatedAt.UTC(), UpdateTime: u.UpdatedAt.UTC(),
	}
	if !u.LastLoginAt.IsZero() {
		data.LastLoginTime = u.LastLoginAt.UTC()
	}
	return data
}

func membershipsData(c *store.Change, u *User) []events.UserMembership {
	var all []events.UserMembership
	for _, m := range c.Memberships(u) {
		if m.Status == store.MembershipRemoved {
			continue
		}
		data := events.UserMembership{
			OrganizationID: m.OrganizationID, Status: m.Status.String(), Roles: m.Roles, Metadata: m.Metadata, ProvisioningMethod: m.ProvisioningMethod,
		}
		if !m.JoinedAt.IsZero() {
			data.JoinTime = m.JoinedAt.UTC()
		}
		if o := c.Organization(u.EnvironmentID, store.OrganizationRef{ID: m.OrganizationID}); o != nil {
			data.Name, data.DisplayName = o.DisplayName, o.DisplayName
		}
		all = append(all, data)
	}
	return all
}

// withMemberships is a copy of a user with the memberships that are not removed.
func withMemberships(c *store.Change, u *User) User {
	out := *u
	out.Memberships = nil
	for _, m := range c.Memberships(u) {
		if m.Status == store.MembershipRemoved {
			continue
		}
		copied := *m
		if o := c.Organization(u.EnvironmentID, store.OrganizationRef{ID: m.OrganizationID}); o != nil {
			copied.OrganizationName, copied.OrganizationExternalID = o.DisplayName, o.ExternalID
		}
		out.Memberships = append(out.Memberships, copied)
	}
	return out
}
