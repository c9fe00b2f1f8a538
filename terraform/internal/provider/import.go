package provider

import (
	"fmt"
	"regexp"
)

// digestPattern is how the API writes the digest of a definition.
var digestPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

var uuid = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

func isID(key string) bool { return uuid.MatchString(key) }

// byID is what an import by id sets.
func byID(id string) map[string]string { return map[string]string{"id": id} }

// locateOne finds the object that a key means, which is its id or a natural key; only the latter asks for the list.
func locateOne[T any](
	key string, list func() ([]T, error), matches func(T) bool, id func(T) string,
) (map[string]string, error) {
	if isID(key) {
		return byID(key), nil
	}
	among, err := list()
	if err != nil {
		return nil, err
	}
	return theOne(key, among, matches, id)
}

// theOne finds the one object that a natural key means.
func theOne[T any](key string, among []T, matches func(T) bool, id func(T) string) (map[string]string, error) {
	var ids []string
	for _, one := range among {
		if matches(one) {
			ids = append(ids, id(one))
		}
	}
	switch len(ids) {
	case 0:
		return nil, fmt.Errorf("there is none of this name, or the API key may not see it")
	case 1:
		return byID(ids[0]), nil
	default:
		return nil, fmt.Errorf("%q names %d of them; import by id: one of %v", key, len(ids), ids)
	}
}
