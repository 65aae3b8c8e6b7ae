#!/usr/bin/env bash
# Links the Go tools that are named, at the versions in the go.mod of tools/ or, with -C FOLDER, of another folder, as
# .bin/NAME, or with NAME=LINK as .bin/LINK. Each is built once for a version of it and of Go, in the cache; without cgo
# unless CGO_ENABLED=1.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
module=$here
if [[ ${1:-} == -C ]]; then
	module=$(cd "$2" && pwd)
	shift 2
fi
cache=${XDG_CACHE_HOME:-$HOME/.cache}/wattle
mkdir -p "$cache" "$here/../.bin"

for arg; do
	tool=${arg%%=*} name=${arg##*=}
	read -r path version < <(cd "$module" && go list -f '{{if eq .Name "main"}}{{.ImportPath}} {{.Module.Version}}{{end}}' tool | grep -E "/$tool(/v[0-9]+)? ") ||
		{ echo "$tool: $module/go.mod has no such tool" >&2; exit 1; }
	file=$cache/$name-$version-$(go env GOVERSION)
	if [[ ! -x $file ]]; then
		echo "$name: building $version"
		(cd "$module" && CGO_ENABLED=${CGO_ENABLED:-0} go build -trimpath -o "$file.$$" "$path")
		mv -f "$file.$$" "$file"
	fi
	ln -s "$file" "$here/../.bin/$name.$$"
	mv -Tf "$here/../.bin/$name.$$" "$here/../.bin/$name"
	echo "$name: .bin/$name is $file"
done
