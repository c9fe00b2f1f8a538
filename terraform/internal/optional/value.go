// Package optional says of a field of the API whether it is absent, null or has a value: a change leaves alone what is
// absent and clears what is null.
package optional

import (
	"bytes"
	"encoding/json"
)

type state uint8

const (
	absent state = iota
	null
	present
)

// nullMark stands for null on the way to Prune: encoding/json cannot leave a field out on the word of its value, so an
// absent field is written as null and a null as this.
const nullMark = "\x00null"

// Value is a field that may be absent, null or have a value. The zero Value is absent.
type Value[T any] struct {
	state state
	value T
}

// Of is a field with a value.
func Of[T any](value T) Value[T] { return Value[T]{state: present, value: value} }

// Null is a field that is null.
func Null[T any]() Value[T] { return Value[T]{state: null} }

// FromPointer is null where the pointer is nil.
func FromPointer[T any](value *T) Value[T] {
	if value == nil {
		return Null[T]()
	}
	return Of(*value)
}

// Get returns the value, and whether there is one.
func (v Value[T]) Get() (T, bool) { return v.value, v.state == present }

// Pointer returns nil where there is no value.
func (v Value[T]) Pointer() *T {
	if v.state != present {
		return nil
	}
	return &v.value
}

// MarshalJSON writes a form that Prune completes.
func (v Value[T]) MarshalJSON() ([]byte, error) {
	switch v.state {
	case present:
		return json.Marshal(v.value)
	case null:
		return json.Marshal(nullMark)
	default:
		return []byte("null"), nil
	}
}

// UnmarshalJSON reads null as null; what is absent never gets here, and stays absent.
func (v *Value[T]) UnmarshalJSON(data []byte) error {
	if bytes.Equal(data, []byte("null")) {
		*v = Null[T]()
		return nil
	}
	v.state = present
	return json.Unmarshal(data, &v.value)
}

// Prune leaves out the absent members of an encoded object, at any depth, and writes null for those that are null.
func Prune(encoded []byte) ([]byte, error) {
	decoder := json.NewDecoder(bytes.NewReader(encoded))
	// Numbers keep their digits.
	decoder.UseNumber()
	var tree any
	if err := decoder.Decode(&tree); err != nil {
		return nil, err
	}
	return json.Marshal(prune(tree))
}

func prune(tree any) any {
	switch node := tree.(type) {
	case map[string]any:
		for name, member := range node {
			if member == nil {
				delete(node, name)
			} else {
				node[name] = prune(member)
			}
		}
	case []any:
		for index, item := range node {
			node[index] = prune(item)
		}
	case string:
		if node == nullMark {
			return nil
		}
	}
	return tree
}
