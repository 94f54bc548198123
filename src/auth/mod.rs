//! Who is calling: finds, hashes and verifies the credential of a request.
