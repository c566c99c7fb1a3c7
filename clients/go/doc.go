// Package clipwright is a client of Clipwright's HTTP API, generated from openapi/openapi.json by
// scripts/go_client.sh.
//
// NewClientWithResponses reads an answer to its end. For answers that go on, such as FollowBuild and
// FollowJob, take the Client inside it and read the body line by line. WithRequestEditorFn is where a
// bearer token and the Clipwright-Workspace header go.
package clipwright
