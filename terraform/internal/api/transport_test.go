package api

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// answering is an API that gives each answer in turn, the last one for good.
func answering(t *testing.T, answers ...func(http.ResponseWriter)) (*transport, *[]string, *[]time.Duration) {
	t.Helper()
	var bodies []string
	var slept []time.Duration
	server := httptest.NewServer(http.HandlerFunc(func(writer http.ResponseWriter, request *http.Request) {
		body, _ := io.ReadAll(request.Body)
		if key := request.Header.Get("Authorization"); key != "Bearer sp_key" {
			t.Errorf("the key was sent as %q", key)
		}
		answer := answers[min(len(bodies), len(answers)-1)]
		bodies = append(bodies, string(body))
		answer(writer)
	}))
	t.Cleanup(server.Close)
	made, err := newTransport(Config{Endpoint: server.URL, Key: "sp_key", UserAgent: "test", RetriesMax: 3})
	if err != nil {
		t.Fatal(err)
	}
	made.sleep = func(_ context.Context, delay time.Duration) error {
		slept = append(slept, delay)
		return nil
	}
	return made, &bodies, &slept
}

func status(code int, body string) func(http.ResponseWriter) {
	return func(writer http.ResponseWriter) {
		writer.Header().Set("Retry-After", "7")
		writer.WriteHeader(code)
		_, _ = io.WriteString(writer, body)
	}
}

func refused(code string) func(http.ResponseWriter) {
	return status(200, `{"data":null,"errors":[{"message":"No.","extensions":{"code":"`+code+`"}}]}`)
}

var group = status(200, `{"data":{"group":{"id":"1","revision":3,"name":"a","description":""}}}`)

func TestARequestIsRepeatedAfter429And503Alone(t *testing.T) {
	for _, one := range []struct {
		name     string
		first    func(http.ResponseWriter)
		requests int
	}{
		{"429", status(429, "slow down"), 2},
		{"503", status(503, "<html>"), 2},
		{"RATE_LIMITED", refused("RATE_LIMITED"), 2},
		{"OVERLOADED", refused("OVERLOADED"), 2},
		{"NOT_READY", refused("NOT_READY"), 2},
		{"500", status(500, "oops"), 1},
		{"502", status(502, "bad gateway"), 1},
		{"INTERNAL", refused("INTERNAL"), 1},
		{"CONFLICT", refused("CONFLICT"), 1},
		{"FORBIDDEN", refused("FORBIDDEN"), 1},
	} {
		t.Run(one.name, func(t *testing.T) {
			client, bodies, slept := answering(t, one.first, group)
			answer, err := ReadGroup(context.Background(), newClient(client), "1")
			if len(*bodies) != one.requests {
				t.Errorf("%d requests", len(*bodies))
			}
			if isRepeated := one.requests > 1; isRepeated != (err == nil && answer.Group.Revision == 3) {
				t.Errorf("got %v, %v", answer, err)
			}
			for _, delay := range *slept {
				if delay < 7*time.Second {
					t.Errorf("waited %v where 7 s were asked for", delay)
				}
			}
		})
	}
}

func TestARepeatedCreateHasTheSameIdempotencyKey(t *testing.T) {
	client, bodies, _ := answering(t, status(503, ""), status(503, ""), status(200, `{"data":{"createGroup":{"id":"1"}}}`))
	input := CreateGroupInput{Name: "a", IdempotencyKey: IdempotencyKey()}
	if _, err := CreateGroup(context.Background(), newClient(client), input); err != nil {
		t.Fatal(err)
	}
	if len(*bodies) != 3 || (*bodies)[0] != (*bodies)[1] || (*bodies)[1] != (*bodies)[2] {
		t.Errorf("sent %v", *bodies)
	}
}

func TestRetriesEnd(t *testing.T) {
	client, bodies, _ := answering(t, status(429, ""))
	_, err := ReadGroup(context.Background(), newClient(client), "1")
	if len(*bodies) != 4 || err == nil {
		t.Fatalf("%d requests, %v", len(*bodies), err)
	}
	for _, part := range []string{"takes no more requests at the moment (HTTP 429)", "asked 4 times", "retries_max"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in %v", part, err)
		}
	}
}

func TestViolationsAreCarriedWhole(t *testing.T) {
	body := `{"errors":[{"message":"Wrong.","extensions":{"code":"INVALID_INPUT","violations":[{"path":"input.name","message":"must not be empty"},{"path":"input.tools[2]","message":"is no glob"}]}}]}`
	client, _, _ := answering(t, status(200, body))
	_, err := ReadGroup(context.Background(), newClient(client), "1")
	found := ViolationsOf(err)
	if len(found) != 2 || found[1].Path != "input.tools[2]" || found[0].Message != "must not be empty" {
		t.Errorf("got %v of %v", found, err)
	}
}

func TestAnAbsentFieldIsNotSent(t *testing.T) {
	client, bodies, _ := answering(t, status(200, `{"data":{"updateGroup":{"id":"1"}}}`))
	if _, err := UpdateGroup(context.Background(), newClient(client), UpdateGroupInput{Id: "1"}); err != nil {
		t.Fatal(err)
	}
	var sent struct {
		Variables struct {
			Input map[string]any `json:"input"`
		} `json:"variables"`
	}
	if err := json.Unmarshal([]byte((*bodies)[0]), &sent); err != nil {
		t.Fatal(err)
	}
	if len(sent.Variables.Input) != 2 || sent.Variables.Input["id"] != "1" || sent.Variables.Input["dryRun"] != false {
		t.Errorf("sent %v", sent.Variables.Input)
	}
}

func TestAKeyIsNotSentInClearOverANetwork(t *testing.T) {
	for endpoint, isGood := range map[string]bool{
		"https://sallyport.example.com":       true,
		"https://sallyport.example.com/api/g": true,
		"http://127.0.0.1:8080":               true,
		"http://[::1]:8080":                   true,
		"http://localhost:8080":               true,
		"http://sallyport.example.com":        false,
		"http://10.0.0.1":                     false,
		"https://user:pass@example.com":       false,
		"sallyport.example.com":               false,
		"":                                    false,
	} {
		if _, err := ParseEndpoint(endpoint); (err == nil) != isGood {
			t.Errorf("%q: %v", endpoint, err)
		}
	}
	parsed, err := ParseEndpoint("https://sallyport.example.com/")
	if err != nil || parsed.Path != "/graphql" {
		t.Errorf("got %v, %v", parsed, err)
	}
}
