#!/usr/bin/env bash
# Makes DIR/wattle_VERSION_ARCH.deb and .rpm, their bill of materials (CycloneDX) and SHA256SUMS from bin/wattle; DIR, which
# is emptied first, is dist if it is not given. Equal sources give equal bytes: all times are those of the last commit.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=${1:?usage: build.sh VERSION [DIR]}
dist=${2:-dist}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
DATE=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
ARCH=$(go env GOARCH)
VERSION=${version#v}
export SOURCE_DATE_EPOCH DATE ARCH VERSION

rm -rf "$dist"
root=$dist/root
doc=$root/usr/share/doc/wattle
mkdir -p "$root"/usr/{bin,lib} "$root"/usr/share/{man/man1,bash-completion/completions,zsh/vendor-completions,fish/vendor_completions.d} "$doc"

install -m 755 bin/wattle "$root/usr/bin/wattle"
install -D -m 644 -t "$root/usr/lib/systemd/system" systemd/units/*
install -D -m 644 -t "$root/usr/lib/sysusers.d" systemd/sysusers.d/*
install -D -m 644 -t "$root/usr/lib/tmpfiles.d" systemd/tmpfiles.d/*
install -D -m 644 -t "$root/usr/lib/systemd/system-preset" systemd/presets/*
mkdir -p "$root/usr/share/wattle/systemd"
cp -r systemd/newer/. "$root/usr/share/wattle/systemd"
bin/wattle man "$root/usr/share/man/man1"
gzip -9n "$root"/usr/share/man/man1/*.1
bin/wattle completion bash >"$root/usr/share/bash-completion/completions/wattle"
bin/wattle completion zsh >"$root/usr/share/zsh/vendor-completions/_wattle"
bin/wattle completion fish >"$root/usr/share/fish/vendor_completions.d/wattle.fish"

# The licences of everything that is linked in.
install -m 644 LICENSE "$doc/copyright"
go version -m bin/wattle | awk '$1 == "dep" {print $2 "@" $3}' | while read -r module; do
	dir=$(go mod download -json "$module" | sed -n 's/^\t"Dir": "\(.*\)",\?$/\1/p')
	find "$dir" -maxdepth 1 -type f \( -iname 'licen[cs]e*' -o -iname 'copying*' -o -iname 'notice*' \) | sort | while read -r file; do
		printf '======== %s: %s\n\n' "$module" "$(basename "$file")"
		cat "$file"
		echo
	done
done >"$doc/NOTICES"
gzip -9n "$doc/NOTICES"
.bin/cyclonedx-gomod bin -json -noserial -version "$VERSION" bin/wattle 2>/dev/null |
	sed "s/\"timestamp\": \"[^\"]*\"/\"timestamp\": \"$DATE\"/" >"$doc/wattle.cdx.json"
find "$root" -type d -exec chmod 755 {} + -o -type f ! -perm 755 -exec chmod 644 {} +
find "$root" -exec touch -h -d "$DATE" {} +

for format in deb rpm; do
	sed "s|src: dist/root/|src: $root/|" packages/nfpm.yaml >"$dist/nfpm.yaml"
	.bin/nfpm package --config "$dist/nfpm.yaml" --packager "$format" --target "$dist"
done
cp "$doc/wattle.cdx.json" "$dist/wattle_$VERSION.cdx.json"
rm -r "$root" "$dist/nfpm.yaml"
(cd "$dist" && sha256sum -- *.deb *.rpm *.json | tee SHA256SUMS)
