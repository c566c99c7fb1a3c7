package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	clipwright "clipwright/clients/go"
)

// How long a silent stream is borne: the service says something every ten seconds.
const patience = 30 * time.Second

// verify asks what the image is called, and whether it is there.
func (b *builder) verify(ctx context.Context, request buildRequest) (*clipwright.Verdict, error) {
	body := clipwright.VerifyRequest{PythonVersion: &request.pythonVersion}
	if request.dockerfile != "" {
		body.Dockerfile = &request.dockerfile
	} else {
		body.ExistingImageUri = &request.image
	}
	answer, err := b.client.VerifyBuildWithResponse(ctx, nil, body)
	if err != nil {
		return nil, err
	}
	if answer.JSON200 == nil {
		return nil, refusal(answer.HTTPResponse, answer.Body)
	}
	if !answer.JSON200.Valid {
		return nil, fmt.Errorf("%q is no image", request.image)
	}
	return answer.JSON200, nil
}

// submit asks for the build of the image that is called so; the build's id.
func (b *builder) submit(ctx context.Context, request buildRequest, imageID string) (string, error) {
	var options clipwright.BuildOptions
	var err error
	if request.dockerfile != "" {
		err = options.FromDockerfileOptions(clipwright.DockerfileOptions{Dockerfile: request.dockerfile})
	} else {
		err = options.FromIndexOptions(clipwright.IndexOptions{SourceImage: request.image})
	}
	if err != nil {
		return "", err
	}
	body := clipwright.BuildRequest{ContainerId: &request.containerID, ImageId: &imageID, BuildOptions: options}
	answer, err := b.client.SubmitBuildWithResponse(ctx, nil, body)
	if err != nil {
		return "", err
	}
	switch {
	case answer.JSON202 != nil:
		return answer.JSON202.Id.String(), nil
	case answer.JSON200 != nil: // sent before, by the same container id
		return answer.JSON200.Id.String(), nil
	}
	return "", refusal(answer.HTTPResponse, answer.Body)
}

// follow passes messages on and gives back the last. A stream that breaks is asked for again, and what was
// passed on is passed over: the same messages come again.
func (b *builder) follow(ctx context.Context, id, pythonVersion string) (*clipwright.Message, error) {
	told := 0
	for {
		last, err := b.read(ctx, id, pythonVersion, &told)
		if last != nil || ctx.Err() != nil {
			return last, ctx.Err()
		}
		if err != nil && !isBroken(err) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// broken is the end of a stream that had more to say.
type broken struct{ error }

func isBroken(err error) bool {
	_, is := err.(broken)
	return is
}

func (b *builder) read(ctx context.Context, id, pythonVersion string, told *int) (*clipwright.Message, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silence := time.AfterFunc(patience, cancel)
	defer silence.Stop()
	parameters := &clipwright.FollowBuildParams{PythonVersion: &pythonVersion}
	answer, err := b.client.ClientInterface.FollowBuild(ctx, id, parameters)
	if err != nil {
		return nil, broken{err}
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
		if answer.StatusCode >= 500 {
			return nil, broken{refusal(answer, body)}
		}
		return nil, refusal(answer, body)
	}
	lines := bufio.NewScanner(answer.Body)
	lines.Buffer(nil, 1<<20)
	for seen := 0; lines.Scan(); {
		silence.Reset(patience)
		var message clipwright.Message
		if err := json.Unmarshal(bytes.TrimSpace(lines.Bytes()), &message); err != nil {
			return nil, err
		}
		if message.Done {
			return &message, nil
		}
		if message.Msg == "" { // a sign of life
			continue
		}
		if seen++; seen <= *told {
			continue
		}
		*told = seen
		if message.Warning {
			fmt.Fprint(b.out, "WARNING: ")
		}
		fmt.Fprint(b.out, message.Msg)
	}
	if err := lines.Err(); err != nil {
		return nil, broken{err}
	}
	return nil, broken{io.ErrUnexpectedEOF}
}

// stop ends the build. It may be asked for at any time, and more than once.
func (b *builder) stop(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answer, err := b.client.StopBuildWithResponse(ctx, id, nil)
	if err != nil {
		return err
	}
	if answer.JSON200 == nil {
		return refusal(answer.HTTPResponse, answer.Body)
	}
	return nil
}

// refusal is the service's own sentence, where there is one.
func refusal(answer *http.Response, body []byte) error {
	var problem clipwright.Problem
	if err := json.Unmarshal(body, &problem); err == nil && problem.Detail != "" {
		return fmt.Errorf("the service answered %d %s: %s", answer.StatusCode, problem.Code, problem.Detail)
	}
	return fmt.Errorf("the service answered %s", answer.Status)
}
