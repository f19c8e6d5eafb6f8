package scim

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

const maxBody = 1 << 20

// read reads the body of a request, of whatever its client claims about it.
func read(r *request) (value, error) {
	if err := checkMedia(r.Header); err != nil {
		return value{}, err
	}
	large := &problem{status: http.StatusRequestEntityTooLarge, detail: "a body has at most 1 MiB", header: http.Header{"Connection": {"close"}}}
	if r.ContentLength > maxBody {
		return value{}, large
	}
	var body bytes.Buffer
	if n := r.ContentLength; n > 0 {
		body.Grow(int(min(n, 16<<10)) + bytes.MinRead) // more only as it comes
	}
	n, err := body.ReadFrom(io.LimitReader(r.Body, maxBody+1))
	switch {
	case n > maxBody:
		return value{}, large
	case err != nil:
		return value{}, refuse(invalidSyntax, "the body could not be read to its end")
	}
	return parseJSON(body.String())
}

func checkMedia(header http.Header) error {
	if _, ok := header["Content-Encoding"]; ok {
		return &problem{status: http.StatusUnsupportedMediaType, detail: "send bodies without a content encoding"}
	}
	switch media := header.Get("Content-Type"); media {
	case mediaType, "application/json", mediaType + "; charset=utf-8", "application/json; charset=utf-8":
		return nil
	default:
		// What is wrong with a parameter does not matter: none is looked at.
		media, _, err := mime.ParseMediaType(media)
		if (err == nil || errors.Is(err, mime.ErrInvalidMediaParameter)) && (media == mediaType || media == "application/json") {
			return nil
		}
	}
	return &problem{status: http.StatusUnsupportedMediaType, detail: "send bodies as " + mediaType}
}

// query is what a list is asked for.
type query struct {
	filter       string
	filtered     bool
	start, count int
	members      bool // of groups are wanted
}

// readQuery reads the parameters that are known; others are passed over.
func readQuery(r *request) (query, error) {
	q := query{start: 1, count: defaultSize, members: true}
	if r.URL.RawQuery == "" {
		return q, nil
	}
	// A parameter that cannot be read is not passed over: it may be a filter, and
	// all that is there would be taken for what matches it.
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return q, refuse(invalidSyntax, "the query is not well-formed")
	}
	if filters, ok := values["filter"]; ok {
		if len(filters) != 1 {
			return q, refuse(invalidFilter, "there is more than one filter")
		}
		q.filter, q.filtered = filters[0], true
	}
	if q.start, err = whole(values, "startIndex", q.start); err != nil {
		return q, err
	}
	if q.count, err = whole(values, "count", q.count); err != nil {
		return q, err
	}
	q.start, q.count = max(q.start, 1), max(q.count, 0)
	for _, names := range values["excludedAttributes"] {
		for name := range strings.SplitSeq(names, ",") {
			if p, ok := split(strings.TrimSpace(name)); ok && same(p.in(groupSchema), "members") {
				q.members = false
			}
		}
	}
	return q, nil
}

// whole reads a whole number; one that is too large is as large as can be.
func whole(values url.Values, name string, otherwise int) (int, error) {
	s, ok := values[name]
	if !ok {
		return otherwise, nil
	}
	n, err := strconv.ParseInt(s[0], 10, 32)
	if err != nil && n == 0 {
		return 0, refuse(invalidValue, name+" has to be a whole number")
	}
	return int(n), nil
}
