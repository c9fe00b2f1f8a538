package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/Khan/genqlient/graphql"
	"github.com/sallyport/terraform-provider-sallyport/internal/optional"
)

const (
	graphqlPath       = "/graphql"
	answerBytesMax    = 64 << 20
	requestTimeout    = 60 * time.Second
	retryDelayFirst   = 250 * time.Millisecond
	retryDelayMax     = 10 * time.Second
	retryAfterSecsMax = 60
	// RetriesMaxDefault is how often a request is sent again after 429 or 503.
	RetriesMaxDefault = 6
)

// Config says where the API is and who asks.
type Config struct {
	// Endpoint is the control plane's URL; without a path, /graphql is meant.
	Endpoint string
	// Key is an API key with the scope API.
	Key       string
	UserAgent string
	// RetriesMax bounds how often a request is sent again after 429 or 503; nothing else is ever repeated.
	RetriesMax int
}

// ParseEndpoint refuses what would send the key in clear over a network.
func ParseEndpoint(endpoint string) (*url.URL, error) {
	parsed, err := url.Parse(strings.TrimSpace(endpoint))
	if err != nil || parsed.Host == "" || (parsed.Scheme != "https" && parsed.Scheme != "http") {
		return nil, fmt.Errorf("%q is not a URL such as https://sallyport.example.com", endpoint)
	}
	if parsed.User != nil {
		return nil, fmt.Errorf("the endpoint must not hold credentials: use api_key")
	}
	if parsed.Scheme == "http" && !isLoopback(parsed.Hostname()) {
		return nil, fmt.Errorf("%q would send the API key in clear: use https, or an address of this machine", endpoint)
	}
	if parsed.Path == "" || parsed.Path == "/" {
		parsed.Path = graphqlPath
	}
	return parsed, nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

// transport sends operations, one HTTP request each.
type transport struct {
	url    string
	config Config
	http   *http.Client
	// sleep waits unless the context ends before; tests pass their own.
	sleep func(ctx context.Context, delay time.Duration) error
}

func newTransport(config Config) (*transport, error) {
	endpoint, err := ParseEndpoint(config.Endpoint)
	if err != nil {
		return nil, err
	}
	client := &http.Client{
		Timeout: requestTimeout,
		// A redirect would take the key elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return &transport{url: endpoint.String(), config: config, http: client, sleep: sleep}, nil
}

func sleep(ctx context.Context, delay time.Duration) error {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// MakeRequest sends an operation, and again after 429 and 503 alone. Creates carry an idempotency key, so that a
// repetition of one that was carried out finds what it made.
func (t *transport) MakeRequest(ctx context.Context, request *graphql.Request, response *graphql.Response) error {
	body, err := encode(request)
	if err != nil {
		return err
	}
	for attempt := 0; ; attempt++ {
		refused, retryAfter, err := t.send(ctx, body, response)
		if err != nil || refused == nil {
			return err
		}
		if !refused.mayRetry() {
			return refused
		}
		if attempt >= t.config.RetriesMax {
			return fmt.Errorf("%w\nIt was asked %d times: try later, or raise retries_max of the provider", refused, attempt+1)
		}
		if err := t.sleep(ctx, delayBefore(attempt, retryAfter)); err != nil {
			return fmt.Errorf("%w; the last answer was: %w", err, refused)
		}
	}
}

func encode(request *graphql.Request) ([]byte, error) {
	variables, err := json.Marshal(request.Variables)
	if err != nil {
		return nil, err
	}
	if variables, err = optional.Prune(variables); err != nil {
		return nil, err
	}
	return json.Marshal(struct {
		Query         string          `json:"query"`
		Variables     json.RawMessage `json:"variables,omitempty"`
		OperationName string          `json:"operationName"`
	}{request.Query, variables, request.OpName})
}

type wireError struct {
	Message    string `json:"message"`
	Extensions struct {
		Code       string      `json:"code"`
		Violations []Violation `json:"violations"`
	} `json:"extensions"`
}

// send makes one attempt. What the API says no to is `refused`, with how long it asks to wait.
func (t *transport) send(ctx context.Context, body []byte, into *graphql.Response) (*Error, time.Duration, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, t.url, bytes.NewReader(body))
	if err != nil {
		return nil, 0, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json")
	request.Header.Set("Authorization", "Bearer "+t.config.Key)
	request.Header.Set("User-Agent", t.config.UserAgent)
	answer, err := t.http.Do(request)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(answer.Body, answerBytesMax+1))
	if err != nil {
		return nil, 0, fmt.Errorf("the answer of the API broke off: %w", err)
	}
	if len(text) > answerBytesMax {
		return nil, 0, fmt.Errorf("the answer of the API has more than %d bytes", answerBytesMax)
	}
	var parsed struct {
		Data   json.RawMessage `json:"data"`
		Errors []wireError     `json:"errors"`
	}
	if err := json.Unmarshal(text, &parsed); err != nil || (len(parsed.Errors) == 0 && len(parsed.Data) == 0) {
		return &Error{Message: t.url + " " + strangeAnswer(answer.StatusCode), HTTPStatus: answer.StatusCode}, retryAfter(answer), nil
	}
	if len(parsed.Errors) > 0 {
		return refusal(parsed.Errors, answer.StatusCode), retryAfter(answer), nil
	}
	return nil, 0, json.Unmarshal(parsed.Data, into.Data)
}

// strangeAnswer says what an answer means that is not the API's own, as of a proxy before it.
func strangeAnswer(status int) string {
	switch status {
	case http.StatusServiceUnavailable:
		return "is not available at the moment"
	case http.StatusTooManyRequests:
		return "takes no more requests at the moment"
	default:
		return "did not answer as the API of Sallyport does: is the endpoint right, and what is before it?"
	}
}

// refusal joins what the answer says; the code is that of the first error.
func refusal(errors []wireError, status int) *Error {
	refused := &Error{Code: errors[0].Extensions.Code, HTTPStatus: status}
	var messages []string
	for _, one := range errors {
		messages = append(messages, one.Message)
		refused.Violations = append(refused.Violations, one.Extensions.Violations...)
	}
	refused.Message = strings.Join(messages, "; ")
	return refused
}

func retryAfter(answer *http.Response) time.Duration {
	seconds, err := strconv.Atoi(answer.Header.Get("Retry-After"))
	if err != nil || seconds < 0 {
		return 0
	}
	return time.Duration(min(seconds, retryAfterSecsMax)) * time.Second
}

// delayBefore doubles with each attempt, a random half of it, and is never shorter than the API asked for.
func delayBefore(attempt int, asked time.Duration) time.Duration {
	delay := min(retryDelayFirst<<min(attempt, 10), retryDelayMax)
	//nolint:gosec // A jitter is no secret.
	return max(asked, delay/2+rand.N(delay/2))
}
