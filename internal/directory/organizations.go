package directory

import (
	"context"
	"errors"
	"time"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/store"
)

// organization returns one that is not deleted.
func organization(c *store.Change, env string, ref store.OrganizationRef) (*Organization, error) {
	o := c.Organization(env, ref)
	if o == nil || o.State != store.OrganizationActive {
		return nil, ErrOrganizationNotFound
	}
	return o, nil
}

// CreateOrganization makes an organization.
func (d *Directory) CreateOrganization(ctx context.Context, env string, n NewOrganization) (Organization, error) {
	id := n.ID
	if id == "" {
		id = newID("org_")
	}
	need := store.Need{EnvironmentID: env, Organizations: []store.OrganizationRef{{ID: id}, {ExternalID: n.ExternalID}, {Slug: n.Slug}}}
	var made Organization
	err := d.do(ctx, &command{need: need, events: 1, taken: ErrOrganizationExists, decide: func(c *store.Change) error {
		if c.Organization(env, store.OrganizationRef{ID: id}) != nil ||
			n.ExternalID != "" && c.Organization(env, store.OrganizationRef{ExternalID: n.ExternalID}) != nil ||
			n.Slug != "" && c.Organization(env, store.OrganizationRef{Slug: n.Slug}) != nil {
			return ErrOrganizationExists
		}
		o := &Organization{
			EnvironmentID: env, ID: id, DisplayName: n.DisplayName, ExternalID: n.ExternalID, RegionCode: n.RegionCode, Slug: n.Slug, Metadata: n.Metadata,
			CreatedAt: micros(c.Now), UpdatedAt: micros(c.Now),
		}
		c.PutOrganization(o)
		made = *o
		ev, err := events.New(organizationCreated, organizationData(c, env, id), d.defaults(env, c.Now), id)
		if err != nil {
			return err
		}
		c.Announce(ev, nil)
		return nil
	}})
	return made, err
}

var (
	organizationCreated = events.Type[events.Organization]{Name: "organization.created"}
	organizationDeleted = events.Type[events.Organization]{Name: "organization.deleted"}
)

func micros(t time.Time) time.Time { return t.Truncate(time.Microsecond) }

// DeleteOrganization removes all members, and returns when that is done, or will
// be. From the first moment on the organization is gone for everybody else.
func (d *Directory) DeleteOrganization(ctx context.Context, env string, ref Ref) error {
	by := store.OrganizationRef{ID: ref.ID, ExternalID: ref.ExternalID}
	var id string
	err := d.do(ctx, &command{need: store.Need{EnvironmentID: env, Organizations: []store.OrganizationRef{by}, Ends: true}, events: 1, decide: func(c *store.Change) error {
		o, err := organization(c, env, by)
		if err != nil {
			return err
		}
		id = o.ID
		data := organizationData(c, env, id)
		data.DeletedAt = c.Now.UTC()
		ev, err := events.New(organizationDeleted, data, d.defaults(env, c.Now), id)
		if err != nil {
			return err
		}
		o.State, o.UpdatedAt = store.OrganizationDeleting, c.Now
		c.PutOrganization(o)
		c.Announce(ev, nil)
		return nil
	}})
	if err != nil {
		return err
	}
	if err := d.emptyOrganization(ctx, env, id); err != nil {
		// It is deleted, and its members will be.
		d.log().WarnContext(ctx, "an organization's members are removed later", "organization_id", id, "error", err)
		d.finishSoon()
	}
	return nil
}

// leavers is how many members of a deleted organization are removed at a time.
const leavers = 100

// emptyOrganization removes the members of an organization that is being deleted.
// Any number of processes may do so at once.
func (d *Directory) emptyOrganization(ctx context.Context, env, id string) error {
	for {
		ids, err := d.Store.MemberIDs(ctx, env, id, leavers)
		if err != nil {
			return d.unavailable(err)
		}
		need := store.Need{EnvironmentID: env, Organizations: []store.OrganizationRef{{ID: id}}, Ends: len(ids) == 0}
		for _, user := range ids {
			need.Users = append(need.Users, store.UserRef{ID: user})
		}
		err = d.do(ctx, &command{need: need, events: 2 * len(ids), decide: func(c *store.Change) error {
			if len(ids) == 0 {
				if o := c.Organization(env, store.OrganizationRef{ID: id}); o != nil && o.State == store.OrganizationDeleting {
					o.State, o.UpdatedAt = store.OrganizationDeleted, c.Now
					c.PutOrganization(o)
				}
				return nil
			}
			for _, user := range ids {
				u := c.User(env, store.UserRef{ID: user})
				if u == nil {
					continue
				}
				m := c.Membership(u, id)
				if m == nil || m.Status == store.MembershipRemoved {
					continue
				}
				o := departure{reason: ReasonOrganizationDeleted, at: c.Now, account: ReasonOrganizationDeleted}
				if _, err := d.leave(c, u, m, o); err != nil {
					return err
				}
			}
			return nil
		}})
		if err != nil || len(ids) == 0 {
			return err
		}
	}
}

const deletionsPoll = 5 * time.Second

// finishDeletions empties organizations whose deletion nobody waits for.
func (d *Directory) finishDeletions(ctx context.Context) error {
	tick := time.NewTicker(deletionsPoll)
	defer tick.Stop()
	for {
		for {
			o, err := d.Store.DeletingOrganization(ctx)
			if errors.Is(err, store.ErrNotFound) {
				break
			}
			if err == nil {
				err = d.emptyOrganization(ctx, o.EnvironmentID, o.ID)
			}
			if err != nil {
				if ctx.Err() == nil {
					d.log().WarnContext(ctx, "could not finish the deletion of an organization; it goes on later", "error", err)
				}
				break
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.wake:
		case <-tick.C:
		}
	}
}

func (d *Directory) finishSoon() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}
