package registry

import (
	"strings"
	"testing"
)

func TestWhereAFileLies(t *testing.T) {
	for _, c := range []struct{ name, path, credentials, want, fault string }{
		{name: "nothing"},
		{name: "absolute", path: "/etc/token", want: "/etc/token"},
		{name: "relative", path: "token", want: "/etc/wattle/token"},
		{name: "a credential", path: "credential:consul", credentials: "/run/credentials/wattle-server.service", want: "/run/credentials/wattle-server.service/consul"},
		{name: "a credential without systemd", path: "credential:consul", fault: "LoadCredential=consul:"},
		{name: "a credential that leads out", path: "credential:../../etc/shadow", credentials: "/run/c", fault: "credential:NAME"},
		{name: "a credential that is the folder", path: "credential:..", credentials: "/run/c", fault: "credential:NAME"},
		{name: "a credential without a name", path: "credential:", credentials: "/run/c", fault: "credential:NAME"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("CREDENTIALS_DIRECTORY", c.credentials)
			got, err := ResolvePath("/etc/wattle", c.path)
			if got != c.want || (err != nil) != (c.fault != "") || err != nil && !strings.Contains(err.Error(), c.fault) {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}
