package optional

import (
	"encoding/json"
	"testing"
)

type input struct {
	Kept    Value[string]   `json:"kept"`
	Cleared Value[string]   `json:"cleared"`
	Said    Value[int]      `json:"said"`
	List    []string        `json:"list"`
	Empty   []string        `json:"empty"`
	Nested  Value[*input]   `json:"nested"`
	Items   []Value[string] `json:"items"`
}

func TestAnAbsentFieldIsLeftOutAndANullOneIsSentAsNull(t *testing.T) {
	value := input{Cleared: Null[string](), Said: Of(9007199254740993), Empty: []string{}}
	value.Nested = Of(&input{Cleared: Null[string]()})
	encoded, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	pruned, err := Prune(encoded)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"cleared":null,"empty":[],"nested":{"cleared":null},"said":9007199254740993}`
	if string(pruned) != want {
		t.Errorf("got %s, want %s", pruned, want)
	}
}

func TestAnAnswerTellsNullFromAValue(t *testing.T) {
	var answer input
	if err := json.Unmarshal([]byte(`{"kept":"text","cleared":null}`), &answer); err != nil {
		t.Fatal(err)
	}
	if text, ok := answer.Kept.Get(); !ok || text != "text" || answer.Cleared.Pointer() != nil || answer.Said.Pointer() != nil {
		t.Errorf("got %+v", answer)
	}
}
