package main

import "context"

func (d *driver) route(context.Context) error { return nil }

func (d *driver) process(context.Context) error { return nil }
