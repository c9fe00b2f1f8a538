package api

import (
	"errors"
	"fmt"
	"strings"
)

// Codes of the API's error catalogue (docs/reference/error-codes.md) that the provider acts on.
const (
	codeNotFound     = "NOT_FOUND"
	codeConflict     = "CONFLICT"
	codeForbidden    = "FORBIDDEN"
	codeInvalidInput = "INVALID_INPUT"
	codeRateLimited  = "RATE_LIMITED"
	codeOverloaded   = "OVERLOADED"
	codeNotReady     = "NOT_READY"
)

// Violation is one thing wrong with an input.
type Violation struct {
	// Path into the input, such as input.items[3].subject.id.
	Path string `json:"path"`
	// Message says what is wrong and how to mend it.
	Message string `json:"message"`
}

// Error is an answer of the API that refuses.
type Error struct {
	// Code of the catalogue; empty where the answer came from something other than the API, such as a proxy.
	Code       string
	Message    string
	Violations []Violation
	// HTTPStatus is 200 for what a resolver refused.
	HTTPStatus int
}

func (e *Error) Error() string {
	var text strings.Builder
	text.WriteString(e.Message)
	if e.Code != "" {
		fmt.Fprintf(&text, " (%s)", e.Code)
	} else {
		fmt.Fprintf(&text, " (HTTP %d)", e.HTTPStatus)
	}
	for _, violation := range e.Violations {
		fmt.Fprintf(&text, "\n- %s %s", violation.Path, violation.Message)
	}
	return text.String()
}

// mayRetry tells whether the same request may succeed later: 429 and 503, and the codes that stand for them.
func (e *Error) mayRetry() bool {
	switch e.Code {
	case codeRateLimited, codeOverloaded, codeNotReady:
		return true
	case "":
		return e.HTTPStatus == 429 || e.HTTPStatus == 503
	default:
		return false
	}
}

func hasCode(err error, code string) bool {
	var refused *Error
	return errors.As(err, &refused) && refused.Code == code
}

// NotFound is the answer where there is no such object.
func NotFound() error {
	return &Error{Code: codeNotFound, Message: "There is no such object, or you may not see it.", HTTPStatus: 200}
}

// IsNotFound tells that there is no such object, or that the key may not see it.
func IsNotFound(err error) bool { return hasCode(err, codeNotFound) }

// IsConflict tells that the object was changed since it was read, or lost a race for a unique name.
func IsConflict(err error) bool { return hasCode(err, codeConflict) }

// IsForbidden tells that the key lacks the permission.
func IsForbidden(err error) bool { return hasCode(err, codeForbidden) }

// ViolationsOf returns what is wrong with the input, if that is why the API refused.
func ViolationsOf(err error) []Violation {
	var refused *Error
	if errors.As(err, &refused) && refused.Code == codeInvalidInput {
		return refused.Violations
	}
	return nil
}
