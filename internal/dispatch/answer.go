package dispatch

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/handover-dev/handover/handlers"
)

// A Class is what became of an attempt, from a closed set: a label for metrics
// and the thing to count by.
type Class string

// The classes.
const (
	ClassOK                Class = "ok"                    // 2xx
	ClassRedirect          Class = "redirect"              // 3xx, which is not followed
	ClassHTTP4xx           Class = "http_4xx"              // a 4xx without a class of its own
	ClassGone              Class = "gone"                  // 410
	ClassRejected          Class = "rejected"              // 422
	ClassThrottled         Class = "throttled"             // 429
	ClassUnavailable       Class = "unavailable"           // 502, 503, 504
	ClassHTTP5xx           Class = "http_5xx"              // a 5xx without a class of its own
	ClassTimeout           Class = "timeout"               // no answer in time, or no connection
	ClassDNS               Class = "dns"                   // the name has no address
	ClassRefused           Class = "refused"               // nobody listens there
	ClassUnreachable       Class = "unreachable"           // no route there
	ClassReset             Class = "reset"                 // the connection was closed before an answer
	ClassTLS               Class = "tls"                   // certificate or handshake
	ClassAddressNotAllowed Class = "address_not_allowed"   // refused by the Guard
	ClassHeaderTooLarge    Class = "answer_header_too_big" // an answer header beyond the limit
	ClassProtocol          Class = "protocol"              // not an HTTP answer, or a 1xx as the last word
	ClassCanceled          Class = "canceled"              // broken off by us
	ClassOther             Class = "other"
)

// Classes returns all classes, so that metrics can have every series from the start.
func Classes() []Class {
	return []Class{
		ClassOK, ClassRedirect, ClassHTTP4xx, ClassGone, ClassRejected, ClassThrottled, ClassUnavailable, ClassHTTP5xx,
		ClassTimeout, ClassDNS, ClassRefused, ClassUnreachable, ClassReset, ClassTLS, ClassAddressNotAllowed,
		ClassHeaderTooLarge, ClassProtocol, ClassCanceled, ClassOther,
	}
}

// A Verdict is what follows from an answer for the delivery and its endpoint.
type Verdict string

// The verdicts.
const (
	Success   Verdict = "success"   // the delivery succeeded
	Retry     Verdict = "retry"     // try again as scheduled
	SlowDown  Verdict = "slow_down" // try again as scheduled, not before RetryAfter, and be gentler with the endpoint
	Gone      Verdict = "gone"      // the endpoint wants no more: disable it
	Permanent Verdict = "permanent" // the receiver cannot do it: an operator must decide, do not try again
	Aborted   Verdict = "aborted"   // broken off by us, not counted as an attempt; the receiver may have got it
)

// An Answer is what came of one attempt. Body, Receipt and the texts come from
// a stranger: Body may be any bytes.
type Answer struct {
	Status     int           // of HTTP, 0 when there was none
	Class      Class         //
	Err        error         // why there was no answer, as a sentence of at most 300 bytes; nil when Status is set
	Duration   time.Duration // from the start until the answer was read
	Body       []byte        // the first 4 KiB of the answer
	Receipt    []byte        // the whole JSON body of a 2xx or 422 answer, nil when it is not JSON, too long or cut
	Truncated  bool          // the answer's body was longer than the limit, or stopped in the middle
	RetryAfter time.Duration // wished for by a 429, 502, 503 or 504; 0 = no wish; at most Client.MaxRetryAfter. By us when Aborted
	RemoteAddr string        // the address that was connected to, "" when none was
	location   string        // where a redirect points, without user and query
}

// Verdict says what follows from the answer.
func (a Answer) Verdict() Verdict {
	switch a.Class {
	case ClassOK:
		return Success
	case ClassGone:
		return Gone
	case ClassThrottled, ClassUnavailable:
		return SlowDown
	case ClassCanceled:
		return Aborted
	case ClassRejected:
		if _, _, ok := a.refusal(); ok {
			return Permanent
		}
		return Retry
	default:
		return Retry
	}
}

// Words tells an operator what happened, in at most 300 bytes of printable text.
func (a Answer) Words() string {
	if a.Err != nil {
		return bound(a.Err.Error())
	}
	switch a.Status {
	case http.StatusAccepted:
		return "accepted, will be done later (202)"
	case http.StatusUnauthorized:
		return "rejects our signature (401)"
	case http.StatusForbidden:
		return "refuses us (403)"
	case http.StatusNotFound:
		return "has nothing at this URL (404)"
	case http.StatusMethodNotAllowed:
		return "does not take POST at this URL (405)"
	case http.StatusRequestEntityTooLarge:
		return "finds the event too large (413)"
	case http.StatusGone:
		return "is gone and wants no more events (410)"
	case http.StatusUnprocessableEntity:
		if status, message, ok := a.refusal(); ok {
			return bound(strings.TrimSuffix(fmt.Sprintf("cannot do it (422, %s): %s", status, message), ": "))
		}
		return "cannot process the event (422)"
	case http.StatusTooManyRequests:
		return "asks us to slow down (429" + a.again() + ")"
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return fmt.Sprintf("is unavailable (%d%s)", a.Status, a.again())
	}
	if a.Class == ClassRedirect && a.location != "" {
		return bound(fmt.Sprintf("redirects (%d), which is not followed, to %s", a.Status, a.location))
	}
	if a.Class == ClassRedirect {
		return fmt.Sprintf("redirects (%d), which is not followed", a.Status)
	}
	return fmt.Sprintf("answered %d", a.Status)
}

// refusal returns what a 422 answer's receipt says when it asks for an operator.
func (a Answer) refusal() (status, message string, ok bool) {
	r, err := handlers.ParseReceipt(a.Receipt)
	if err != nil || (r.Status != handlers.StatusBlocked && r.Status != handlers.StatusFailed) {
		return "", "", false
	}
	return r.Status, r.Message, true
}

func (a Answer) again() string {
	if a.RetryAfter <= 0 {
		return ""
	}
	return ", again in " + formatDelay(a.RetryAfter.Round(time.Second))
}

// classOf classes an answer by its status.
func classOf(status int) Class {
	switch {
	case status < 200:
		return ClassProtocol
	case status < 300:
		return ClassOK
	case status < 400:
		return ClassRedirect
	}
	switch status {
	case http.StatusGone:
		return ClassGone
	case http.StatusUnprocessableEntity:
		return ClassRejected
	case http.StatusTooManyRequests:
		return ClassThrottled
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return ClassUnavailable
	}
	if status < 500 {
		return ClassHTTP4xx
	}
	return ClassHTTP5xx
}

// failure is why an attempt got no answer: a sentence for the operator over the
// cause for errors.Is.
type failure struct {
	words string
	cause error
}

func (f *failure) Error() string { return f.words }
func (f *failure) Unwrap() error { return f.cause }

// progress is how far an attempt got before it failed.
type progress struct {
	remote    string // address of the connection, "" = none yet
	answering bool   // a byte of the answer has come
	handshake error  // what the TLS handshake failed with
	timeout   time.Duration
	canceled  error // why our side broke it off; errTimedOut when the time was up
}

// errTimedOut is the cause with which an attempt's context ends when its time is up.
var errTimedOut = errors.New("time is up")

// classify turns the transport's error into a class and words. The order
// matters: what our own side did comes before what it caused on the wire.
func classify(err error, p progress) (Class, error) {
	class, words := explain(err, p)
	return class, &failure{words: bound(words), cause: err}
}

func explain(err error, p progress) (Class, string) {
	var (
		address *AddressError
		dns     *net.DNSError
		op      *net.OpError
		timeout interface{ Timeout() bool }
		verify  *tls.CertificateVerificationError
	)
	at := p.remote
	if at == "" && errors.As(err, &op) && op.Addr != nil {
		at = op.Addr.String()
	}
	switch {
	case errors.Is(p.canceled, errTimedOut):
		return ClassTimeout, timedOut(p)
	case p.canceled != nil:
		return ClassCanceled, "the attempt was broken off by the dispatcher"
	case outOfDescriptors(err):
		return ClassCanceled, "we have no descriptor left for a connection"
	case errors.As(err, &address):
		return ClassAddressNotAllowed, address.Error()
	case errors.As(err, &dns):
		return dnsWords(dns)
	case errors.As(err, &verify):
		return ClassTLS, "the certificate is not valid: " + certificateWords(verify.Err)
	case p.handshake != nil:
		return handshakeWords(p.handshake)
	case errors.As(err, &timeout) && timeout.Timeout():
		return ClassTimeout, "could not connect in time" + to(at)
	case errors.Is(err, syscall.ECONNREFUSED):
		return ClassRefused, "connection refused" + by(at)
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL):
		return ClassUnreachable, "no route" + to(at)
	case errors.Is(err, errHeaderTooLarge):
		return ClassHeaderTooLarge, fmt.Sprintf("the answer's header is larger than %d KiB", maxHeaderBytes>>10)
	case isReset(err), !p.answering && p.remote != "":
		if p.answering {
			return ClassReset, "the connection was closed in the middle of the answer's header" + by(at)
		}
		return ClassReset, "the connection was closed before an answer" + by(at)
	case p.answering:
		return ClassProtocol, "the answer is not HTTP: " + cmp.Or(errors.Unwrap(err), err).Error()
	default:
		return ClassOther, err.Error()
	}
}

func timedOut(p progress) string {
	if p.remote == "" {
		return fmt.Sprintf("could not connect within %s", formatDelay(p.timeout))
	}
	return fmt.Sprintf("did not answer within %s", formatDelay(p.timeout))
}

func dnsWords(err *net.DNSError) (Class, string) {
	switch {
	case err.IsTimeout:
		return ClassDNS, fmt.Sprintf("the name %s could not be resolved in time", err.Name)
	case err.IsNotFound:
		return ClassDNS, fmt.Sprintf("the name %s has no address", err.Name)
	default:
		return ClassDNS, fmt.Sprintf("the name %s could not be resolved: %s", err.Name, err.Err)
	}
}

func handshakeWords(err error) (Class, string) {
	var (
		timeout interface{ Timeout() bool }
		record  tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return ClassTimeout, "the TLS handshake did not end in time"
	case errors.As(err, &record):
		return ClassTLS, "does not speak TLS on this port; is the URL's scheme or port right?"
	case isReset(err):
		return ClassReset, "the connection was closed during the TLS handshake"
	default:
		return ClassTLS, "the TLS handshake failed: " + err.Error()
	}
}

// certificateWords names the usual faults in a few words of its own: the
// library's texts repeat names out of the certificate at any length.
func certificateWords(err error) string {
	var (
		host    x509.HostnameError
		invalid x509.CertificateInvalidError
		unknown x509.UnknownAuthorityError
	)
	switch {
	case errors.As(err, &host):
		return "it is not for the host " + host.Host
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Sprintf("it is only valid from %s to %s",
			invalid.Cert.NotBefore.UTC().Format(time.DateTime), invalid.Cert.NotAfter.UTC().Format(time.DateTime))
	case errors.As(err, &unknown):
		return "it is signed by an unknown authority"
	default:
		return err.Error()
	}
}

// outOfDescriptors tells that we could not even try, which is no fault of the endpoint.
func outOfDescriptors(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

func isReset(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func by(addr string) string { return prefixed(" by ", addr) }
func to(addr string) string { return prefixed(" to ", addr) }

func prefixed(prefix, addr string) string {
	if addr == "" {
		return ""
	}
	return prefix + addr
}

// withoutSecrets is a URL for people: what may hold a secret is cut off.
func withoutSecrets(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

const maxWords = 300

// bound makes a stranger's text fit to print: one line, printable, at most maxWords bytes.
func bound(text string) string {
	if len(text) > 4*maxWords {
		text = text[:4*maxWords]
	}
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, " "))
	if len(text) <= maxWords {
		return text
	}
	cut := maxWords - len("…")
	for cut > 0 && text[cut]&0xC0 == 0x80 {
		cut--
	}
	return text[:cut] + "…"
}
