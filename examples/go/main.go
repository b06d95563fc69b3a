// Command go lets an agent work and shows what it does, through any number of broken connections:
//
//	go run . -address localhost:50051 "Find the primes up to 15"
//
// With -ask it asks at the terminal before each command of the agent. With -changes it shows at the end which files the agent
// changed, and how; -undo takes that back as well.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	runner "github.com/stigmer/runner-service/examples/go/runnerv1"
)

// How long an outage may last before we give up, and the delay between two attempts.
const (
	retryTimeout = time.Minute
	retryDelay   = 300 * time.Millisecond
)

func main() {
	log.SetFlags(0)
	address := flag.String("address", "localhost:50051", "where the service is")
	id := flag.String("id", fmt.Sprintf("go-%d", time.Now().UnixNano()), "the execution's name; known already: attach to it")
	changes := flag.Bool("changes", false, "show which files the agent changed")
	undo := flag.Bool("undo", false, "show that, and take it back")
	ask := flag.Bool("ask", false, "ask before each command of the agent")
	flag.Parse()

	// With an id of our own the request is safe to repeat. It keeps running while we are disconnected.
	request := &runner.ExecuteAgentRequest{
		ExecutionId:      *id,
		Agent:            &runner.Agent{Name: "go", Instructions: "You write short programs."},
		Message:          strings.Join(flag.Args(), " "),
		DisconnectPolicy: runner.DisconnectPolicy_DISCONNECT_POLICY_DETACH,
	}
	if *ask {
		request.ApprovalPolicy = &runner.ApprovalPolicy{Mode: runner.ApprovalMode_APPROVAL_MODE_ASK_COMMANDS}
	}
	finished, err := run(*address, request)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("\n%s\n", finished.State)
	if *changes || *undo {
		if err := showChanges(*address, *id, *undo); err != nil {
			log.Fatal(err)
		}
	}
	if finished.State != runner.State_STATE_SUCCEEDED {
		log.Fatalf("%s: %s", finished.Error.GetCode(), finished.Error.GetMessage())
	}
}

// run follows the execution to its end. Each try goes on after the last event that was seen.
func run(address string, request *runner.ExecuteAgentRequest) (*runner.Finished, error) {
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	client := runner.NewAgentRunnerServiceClient(connection)

	var owner int64 // of the last Started
	lastSeen, reported := time.Now(), false
	for {
		before := request.AfterSequence
		finished, err := follow(client, request, &owner)
		if finished != nil || (err != nil && !isDisconnect(err)) {
			return finished, err
		}
		if request.AfterSequence > before {
			lastSeen, reported = time.Now(), false
		}
		if time.Since(lastSeen) > retryTimeout {
			return nil, fmt.Errorf("gave up: %w", err)
		}
		if !reported {
			reported = true
			log.Printf("\n(broken after event %d: %s; attaching again)", request.AfterSequence, status.Convert(err).Message())
		}
		time.Sleep(retryDelay)
	}
}

// isDisconnect tells a broken stream from a refused call. Behind a proxy a killed service is Internal or Unknown; what the
// service itself means by these codes carries details.
func isDisconnect(err error) bool {
	switch s := status.Convert(err); s.Code() {
	case codes.Unavailable:
		return true
	case codes.Internal, codes.Unknown:
		return len(s.Details()) == 0
	case codes.Unauthenticated: // the file may hold a new token by now
		return os.Getenv("AUTH_TOKEN_FILE") != "" && isExpired(s)
	}
	return false
}

// isExpired tells a token whose time is over, or that was replaced, from a wrong one.
func isExpired(s *status.Status) bool {
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.Reason == "CREDENTIAL_EXPIRED" || info.Reason == "CREDENTIAL_REVOKED"
		}
	}
	return false
}

// follow shows events until the stream ends, and keeps in the request how far it came and which owner's event that was: if
// the service has lost it since, the next call is DataLoss, and never goes on behind another event of that number.
func follow(client runner.AgentRunnerServiceClient, request *runner.ExecuteAgentRequest, owner *int64) (*runner.Finished, error) {
	ctx, cancel := context.WithCancel(outgoing(request.ExecutionId))
	defer cancel()
	stream, err := client.ExecuteAgent(ctx, request)
	if err != nil {
		return nil, err
	}
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, status.Error(codes.Unavailable, "the stream ended before the execution")
		}
		if err != nil {
			return nil, err
		}
		for _, event := range response.Events {
			if started := event.GetStarted(); started != nil {
				*owner = started.Owner
			}
			request.AfterSequence, request.AfterOwner = event.Sequence, *owner
			if event.GetNotice() != nil || event.GetApprovalDecided() != nil {
				request.AfterOwner = 0 // a new owner can publish these before its Started
			}
			show(event)
			if asked := event.GetApprovalRequested(); asked != nil {
				if err := decide(ctx, client, event.ExecutionId, asked); err != nil {
					return nil, err
				}
			}
			if finished := event.GetFinished(); finished != nil {
				return finished, nil
			}
		}
	}
}

var answers = bufio.NewReader(os.Stdin)

// decide asks at the terminal about a call that waits, and sends the answer. A call that somebody else has decided about
// meanwhile, as when events are replayed, is FailedPrecondition: the decision that is there counts.
func decide(ctx context.Context, client runner.AgentRunnerServiceClient, id string, asked *runner.ApprovalRequested) error {
	fmt.Printf("\n%s %v\nrun it? [y/n] ", asked.Name, asked.Arguments.AsMap())
	answer, _ := answers.ReadString('\n') // no terminal is a no
	decision := &runner.SubmitApprovalRequest{
		ExecutionId: id,
		ToolCallId:  asked.ToolCallId,
		Generation:  asked.Generation,
		Action:      runner.ApprovalAction_APPROVAL_ACTION_REJECT,
	}
	if strings.TrimSpace(answer) == "y" {
		decision.Action = runner.ApprovalAction_APPROVAL_ACTION_APPROVE
	}
	_, err := client.SubmitApproval(ctx, decision)
	switch status.Code(err) {
	case codes.FailedPrecondition, codes.Aborted: // decided elsewhere, or asked again
		return nil
	}
	return err
}

func show(event *runner.ExecutionEvent) {
	switch event := event.Event.(type) {
	case *runner.ExecutionEvent_TextDelta:
		fmt.Print(event.TextDelta.Text)
	case *runner.ExecutionEvent_ToolCallStarted:
		fmt.Printf("\n[%s]\n", event.ToolCallStarted.Name)
	case *runner.ExecutionEvent_ToolOutput:
		os.Stdout.Write(event.ToolOutput.GetStdout())
		os.Stderr.Write(event.ToolOutput.GetStderr())
	case *runner.ExecutionEvent_Notice:
		log.Printf("\n(%s)", event.Notice.Text)
	}
}

// outgoing sends the token and the execution's id, by which a proxy can send all calls about it to the same replica.
func outgoing(id string) context.Context {
	return metadata.AppendToOutgoingContext(withToken(context.Background()), "x-execution-id", id)
}

// withToken sends what AUTH_TOKEN_FILE holds now, or AUTH_TOKEN, which a service beyond loopback wants.
func withToken(ctx context.Context) context.Context {
	token := os.Getenv("AUTH_TOKEN")
	if file := os.Getenv("AUTH_TOKEN_FILE"); file != "" {
		content, err := os.ReadFile(file)
		if err != nil {
			log.Printf("(the token cannot be read: %v)", err)
		}
		token = strings.TrimSpace(string(content))
	}
	if token != "" {
		return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	return ctx
}
