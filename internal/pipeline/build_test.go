package pipeline

import (
	"testing"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/translator"
)

func TestBuildTakesTheExampleThroughAllStages(t *testing.T) {
	b := Build("../../examples/bookinfo", configs.Options{})
	if len(b.Diagnostics) > 0 {
		t.Fatal(b.Diagnostics.Error())
	}
	for _, id := range []string{"h1/host", "edge/gw-public"} {
		text, err := translator.Dump(b.Output.Resources(id))
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s %s", id, text)
	}
}
