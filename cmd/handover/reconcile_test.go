package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/handover-dev/handover/internal/api"
)

func TestCompare(t *testing.T) {
	t.Parallel()
	held := func(id, email, externalID, status string) api.Member {
		return api.Member{UserID: id, Email: email, ExternalID: externalID, Status: status, Roles: []string{"held"}}
	}
	listed := func(line int, id, email, externalID, status string) row {
		return row{ImportMember: api.ImportMember{ID: id, Email: email, ExternalID: externalID, Status: status}, line: line}
	}
	for name, tt := range map[string]struct {
		held   []api.Member
		listed []row
		want   []difference
		active int
	}{
		"matched by id, external id and email": {
			[]api.Member{held("usr_1", "a@x", "e1", "ACTIVE"), held("usr_2", "b@x", "e2", "ACTIVE"), held("usr_3", "C@x", "e3", "ACTIVE")},
			[]row{listed(2, "usr_1", "new@x", "", ""), listed(3, "", "new2@x", "e2", "ACTIVE"), listed(4, "", "c@X", "", "")},
			nil, 3,
		},
		"an id that is not held does not hide the others": {
			[]api.Member{held("usr_1", "a@x", "e1", "ACTIVE"), held("usr_2", "b@x", "e2", "ACTIVE")},
			[]row{listed(2, "usr_8", "other@x", "e1", ""), listed(3, "usr_9", "b@x", "e9", "")},
			nil, 2,
		},
		"the first match counts": {
			[]api.Member{held("usr_1", "a@x", "", "ACTIVE"), held("usr_2", "b@x", "", "ACTIVE")},
			[]row{listed(2, "usr_1", "b@x", "", "")},
			[]difference{{Change: "left", UserID: "usr_2", Email: "b@x", Status: "ACTIVE"}},
			2,
		},
		"leavers": {
			[]api.Member{held("usr_1", "a@x", "", "ACTIVE"), held("usr_2", "b@x", "", "ACTIVE"), held("usr_3", "c@x", "", "INACTIVE"), held("usr_4", "d@x", "", "PENDING_INVITE"), held("usr_5", "e@x", "", "INVITE_EXPIRED")},
			[]row{listed(2, "", "a@x", "", "INACTIVE")},
			[]difference{{Change: "left", UserID: "usr_1", Email: "a@x", Status: "ACTIVE"}, {Change: "left", UserID: "usr_2", Email: "b@x", Status: "ACTIVE"}},
			2,
		},
		"returners": {
			[]api.Member{held("usr_1", "a@x", "e1", "INACTIVE"), held("usr_4", "d@x", "", "PENDING_INVITE"), held("usr_5", "e@x", "", "INVITE_EXPIRED")},
			[]row{
				listed(2, "", "A@x", "", ""), listed(3, "", "d@x", "", ""), listed(4, "", "e@x", "", ""), listed(5, "usr_9", "n@x", "e9", "ACTIVE"), listed(6, "", "N@x", "", ""),
				listed(7, "", "i@x", "", "INACTIVE"), listed(8, "", "p@x", "", "PENDING_INVITE"), listed(9, "usr_1", "", "", ""),
			},
			[]difference{
				{Change: "returned", UserID: "usr_1", Email: "a@x", ExternalID: "e1", Status: "INACTIVE", Line: 2, Roles: []string{"held"}},
				{Change: "returned", UserID: "usr_9", Email: "n@x", ExternalID: "e9", Line: 5},
			},
			0,
		},
		"who is invited in the list stays": {
			[]api.Member{held("usr_1", "a@x", "", "ACTIVE"), held("usr_2", "b@x", "", "ACTIVE")},
			[]row{listed(2, "", "a@x", "", "INVITE_EXPIRED"), listed(3, "", "b@x", "", "PENDING_INVITE")},
			nil, 2,
		},
		"the same person twice, once as gone": {
			[]api.Member{held("usr_1", "a@x", "", "ACTIVE")},
			[]row{listed(2, "", "a@x", "", "INACTIVE"), listed(3, "usr_1", "", "", "ACTIVE")},
			nil, 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, active := compare(tt.held, tt.listed)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("differences (-want +got):\n%s", diff)
			}
			if active != tt.active {
				t.Errorf("%d are active, not %d", active, tt.active)
			}
		})
	}
}
