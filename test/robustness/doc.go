// Package robustness holds tests that do to the built binary what the world
// does to it: kill -9 at any instant, a process that is frozen, a full disk,
// damaged files. Clients record what they were told, and afterwards it must all
// be true. docs/robustness.md tells which test covers which invariant.
//
// The tests build bin/skiff's command into a directory of their own, listen on
// loopback, and leave nothing behind.
package robustness
