// Package archtest holds the tree to its architecture. Its tests read every Go file of the module and compare what
// each package imports with the table in table_test.go.
package archtest
