package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/handover-dev/handover/internal/api"
)

// connections is how many clients ask at the same time.
const connections = 64

// removal measures a flood of departures: one request is one departure, and one
// delivery.
func removal(ctx context.Context, m *measurement, way string) error {
	const first = 500 // those before warm up
	if _, err := m.service.subscribe(ctx, m.app("0"), "user.organization_membership_deleted"); err != nil {
		return err
	}
	p, err := m.populate(ctx)
	if err != nil {
		return err
	}
	l := load{Way: way, URL: "http://" + m.service.addr, People: p, Workers: connections}
	switch way {
	case byWebhook:
		l.SignWith, err = m.service.source(ctx)
	case bySCIM:
		l.People.Directories = min((first+m.Events+homeEach-1)/homeEach, p.Organizations)
		l.Doors, err = m.directories(ctx, l.People.Directories)
	default:
		l.Token, err = m.service.token(ctx)
	}
	if err != nil {
		return err
	}
	if n := first + m.Events; n > l.People.leavers() {
		return fmt.Errorf("%d are to leave, and there are %d; give more -members", n, l.People.leavers())
	}
	warm := l
	warm.Count = first
	if err := m.warmUpBy(ctx, warm); err != nil {
		return err
	}
	m.startClock()
	l.First, l.Count = first, m.Events
	s, err := m.load(ctx, l)
	if err != nil {
		return err
	}
	m.begin = time.Unix(0, s.Begin) // the requests were made before
	m.left = make(map[int]int64, l.Count)
	for i, a := range s.Asked {
		user, _ := l.People.leaver(first + i)
		m.left[firstID+user] = a.At
	}
	if err := m.await(ctx, m.Events, 20*time.Second); err != nil {
		return err
	}
	answers := answerTimes(s.Asked)
	m.result.Note = fmt.Sprintf("answered within %.1f ms (p50), %.1f ms (p99), %.0f ms (all)", quantile(answers, 0.5), quantile(answers, 0.99), answers[len(answers)-1])
	n, err := m.remaining(ctx)
	if want := p.memberships() - first - m.Events; err == nil && n != want {
		err = fmt.Errorf("%d memberships are active, want %d", n, want)
	}
	return err
}

// members measures how fast lists of members are read.
func members(ctx context.Context, m *measurement) error {
	p, err := m.populate(ctx)
	if err != nil {
		return err
	}
	l := load{Way: toList, URL: "http://" + m.service.addr, People: p, Workers: 4, Count: max(1, m.Events/10)}
	if l.Token, err = m.service.token(ctx); err != nil {
		return err
	}
	warm := l
	warm.First, warm.Count = l.Count, 100
	if _, err := m.generate(ctx, warm); err != nil {
		return err
	}
	m.startClock()
	s, err := m.load(ctx, l)
	if err != nil {
		return err
	}
	m.spent(m.usage(), s.Accepted)
	r := m.result
	r.Seconds, r.Rate = s.Took.Seconds(), float64(s.Accepted)/s.Took.Seconds()
	times := answerTimes(s.Asked)
	r.P50, r.P99, r.Max = quantile(times, 0.5), quantile(times, 0.99), times[len(times)-1]
	r.Note = "requests instead of deliveries, and the time to their answer"
	return nil
}

// answerTimes are how long answers took, in ms, sorted.
func answerTimes(all []asked) []float64 {
	times := make([]float64, len(all))
	for i, a := range all {
		times[i] = float64(a.Took) / float64(time.Millisecond)
	}
	slices.Sort(times)
	return times
}

func (s *service) operator() *api.Client {
	return &api.Client{BaseURL: "http://" + s.addr, Key: apiKey}
}

// token creates an API client, and is its access token.
func (s *service) token(ctx context.Context) (string, error) {
	c, err := s.operator().InEnvironment(environment).CreateClient(ctx, "bench")
	if err != nil {
		return "", fmt.Errorf("create client: %w", err)
	}
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {c.ID}, "client_secret": {c.Secret}}
	resp, err := http.PostForm("http://"+s.addr+"/oauth/token", form) //nolint:noctx // it ends
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	err = json.NewDecoder(resp.Body).Decode(&answer)
	if err == nil && answer.AccessToken == "" {
		err = errors.New(resp.Status)
	}
	if err != nil {
		return "", fmt.Errorf("get access token: %w", err)
	}
	return answer.AccessToken, nil
}

// source creates a source of webhooks, and returns its secret.
func (s *service) source(ctx context.Context) (string, error) {
	src, err := s.operator().CreateSource(ctx, api.NewSource{Name: "bench", EnvironmentID: environment})
	if err != nil {
		return "", fmt.Errorf("create source: %w", err)
	}
	return src.Secret, nil
}

// directories creates SCIM directories of the first organizations, in which all
// their members are.
func (m *measurement) directories(ctx context.Context, n int) ([]door, error) {
	doors := make([]door, n)
	for i := range doors {
		d, err := m.service.operator().InEnvironment(environment).CreateDirectory(ctx, api.NewSCIMDirectory{OrganizationID: id("org_", i), Name: "bench"})
		if err != nil {
			return nil, fmt.Errorf("create directory: %w", err)
		}
		doors[i] = door{d.Path, d.Token}
	}
	db, err := m.service.database()
	if err != nil {
		return nil, err
	}
	defer db.Close()
	return doors, enroll(ctx, db, m.Store == "postgres")
}
