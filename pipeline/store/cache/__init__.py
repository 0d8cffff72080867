# SPDX-License-Identifier: Apache-2.0
"""The shared cache: artifacts of the store in an OCI registry, so that other machines need not build them again.

In the order of the flow: `oci` speaks the distribution protocol, `signed_record` defines what is signed, `shared` pushes
and pulls, `chosen` reads the variables. Nobody has to trust the registry: a signed record vouches for every byte.
"""
