"""What the supervisor and the agents of other machines have in common: proof, code, versions.

    supervisor                                                      agent, on another machine
      authority     makes both identities, then forgets its key       ▲
      encryption    mutual TLS 1.3 ◀──────── one connection ────────▶ encryption
      sent_code     packs the local plugins ─────── a tar ──────────▶ unpacks them into a private folder
      versions      compares ◀──────── what is installed there ────── reports

Agents need the standard library for it; only `authority` needs the library cryptography.
"""
